from potstill.methods.base import Preset

PRESET = Preset(
    name="simkd",
    loss="potstill.losses.simkd:SimKD",
    year=2022,
    compares="the last map; the student is deployed with the teacher's classifier",
    at="pooled",
    weight=1.0,
    weight_source="1, cross-entropy 0, KD 0: the authors' code",
    ce=0.0,
    use_when="the student may keep a projector and the teacher's classifier",
    notes=(
        "The deployed net is the student's body, the projector, and the teacher's classifier (SimKD.head): "
        "its parameters and operations count. The student's own classifier is never trained, so it must not "
        "be evaluated. The spot must be the map that the global average pooling reads."
    ),
)
