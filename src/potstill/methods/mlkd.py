from potstill.methods.base import Preset

PRESET = Preset(
    name="mlkd",
    loss="potstill.losses.mlkd:MLKD",
    year=2023,
    compares="class probabilities of samples, between samples and between classes",
    at="logits",
    weight=0.9,
    weight_source="0.9 on each part and cross-entropy 0.1 (the authors' code)",
    ce=0.1,
    second={"colour": 0.4, "erase": 0.5},
    use_when="long trainings with strong augmentation",
    notes=(
        "The published runs use lr 0.025 and, in the repository's last state, up to 960 epochs. Each net is shown a weak and a "
        "strong view of each picture, so a step costs twice that of KD; the strong one is crop, mirror, colours and an erased "
        "box here, RandAugment(2, 10) there. data.second changes it, data.second=false leaves it out. The mask of their code "
        "scales the mean by about 0.5; here it chooses samples and classes, so the size is about the same. The parts between "
        "samples and between classes grow with the batch: published at 64."
    ),
)
