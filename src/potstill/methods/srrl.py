from potstill.methods.base import Preset

PRESET = Preset(
    name="srrl",
    loss="potstill.losses.srrl:SRRL",
    year=2021,
    compares="the penultimate vector, and what the teacher's classifier makes of it",
    at="penultimate",
    weight=1.0,
    weight_source="1 for both terms: the authors' code",
    use_when="the student's last features should serve the teacher's classifier; cheap",
    notes="Needs a teacher whose last layer is linear.",
)
