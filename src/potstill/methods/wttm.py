from potstill.methods.base import Preset

PRESET = Preset(
    name="wttm",
    loss="potstill.losses.wttm:WTTM",
    year=2024,
    compares="class probabilities, the teacher's alone softened, weighted by sample",
    at="logits",
    weight=4.0,
    weight_source="4 with gamma 0.2 in the authors' command for WTTM beside CRD; they publish none for WTTM alone",
    settings={"gamma": 0.2},
    use_when="like ttm, with more weight where the teacher is unsure",
    notes="The loss grows with the number of classes (up to C to the power 1 - gamma): the weight belongs to about 100 classes.",
)
