from potstill.methods.base import Before, Preset

PRESET = Preset(
    name="ab",
    loss="potstill.losses.ab:AB",
    year=2019,
    compares="signs of pre-activations",
    at="stages@pre",
    weight=1.0,
    weight_source=(
        "1: the factors 2^(i-n) and 3/1000 are part of the loss (authors, RepDistiller; its weight is without effect)"
    ),
    before=Before(
        share=30 / 270,
        main_weight=0.0,
        source="30 epochs before 240 at the constant initial learning rate: RepDistiller",
    ),
    use_when="to initialise a student of another family; then train with kd",
    notes=(
        "In two stages, as published: first this loss alone on the student's body and the connectors, at a constant learning "
        "rate, the rest of the student in eval mode; then the labels (ab: RepDistiller) or KD (ab+kd: authors) without it. The "
        "two stages share the run's epochs as 30 to 240, so the student has no more steps than its control; there the 30 come on "
        "top. before=false trains it jointly. A sum over the map: its size grows with the resolution. Of the teacher one bit a "
        "number is enough to keep."
    ),
)
