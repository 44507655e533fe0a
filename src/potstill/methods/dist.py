from potstill.methods.base import Preset

PRESET = Preset(
    name="dist",
    loss="potstill.losses.dist:DIST",
    year=2022,
    compares="correlations of class probabilities",
    at="logits",
    weight=1.0,
    weight_source="1 beside cross-entropy 1, with beta = gamma = 2 at T = 4 on CIFAR-100 (the authors' configuration)",
    settings={"temperature": 4.0, "beta": 2.0, "gamma": 2.0},
    use_when="a teacher much larger than the student: it asks for the order of probabilities, not for their size",
    notes=(
        "On ImageNet beta = gamma = 1 at T = 1, the defaults of the class. The part over the batch needs batches with "
        "many classes."
    ),
)
