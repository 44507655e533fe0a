from potstill.methods.base import Preset

PRESET = Preset(
    name="spherical_kd",
    loss="potstill.losses.spherical_kd:SphericalKD",
    year=2020,
    compares="class probabilities without the size of the logits",
    at="logits",
    weight=0.9,
    weight_source="0.9 at T = 4 with cross-entropy 0.1, until epoch 60 of 100; then 0.5, then 0.1 (the authors' code)",
    ce=0.1,
    use_when="a large and very sure teacher",
    notes="The authors' cross-entropy reads the scaled logits; here it reads the student's own.",
)
