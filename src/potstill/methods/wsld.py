from potstill.methods.base import Preset

PRESET = Preset(
    name="wsld",
    loss="potstill.losses.wsld:WSLD",
    year=2021,
    compares="class probabilities, weighted by sample",
    at="logits",
    weight=2.25,
    weight_source="2.25 at T = 4 on CIFAR-100 (the authors, issue 2), 2.5 at T = 2 on ImageNet, beside cross-entropy 1",
    use_when="to let samples that the student already knows rest",
    notes="Several users report no gain over kd (issues 2 and 6 of the authors' repository: 72.91 against 74.12 in the paper).",
)
