from potstill.methods.base import Before, Preset

PRESET = Preset(
    name="fsp",
    loss="potstill.losses.fsp:FSP",
    year=2017,
    compares="products of the channels of consecutive maps",
    at="stem+stages",
    weight=1.0,
    weight_source=(
        "1: the sum over the pairs is all that the first stage minimises (RepDistiller; its weight 50 has no effect)"
    ),
    before=Before(
        share=30 / 270,
        main_weight=0.0,
        source="30 epochs before 240 at the constant initial learning rate: RepDistiller",
    ),
    use_when="student and teacher are of one family and of equal widths",
    notes=(
        "In two stages, as published: first this loss alone on the student's body (all but the classifier), then the labels "
        "without it. The two stages share the run's epochs as 30 to 240; there the 30 come on top. before=false trains it "
        "jointly. Only for equal channels."
    ),
)
