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
    use_when="long trainings with strong augmentation",
    notes=(
        "The published runs show each net a weak and a strong view, use lr 0.025 and, in the repository's last state, up to "
        "960 epochs; with one view this is its weak half. The mask of their code scales the mean by about 0.5; here it "
        "chooses samples and classes, so the size is about the same. The parts between samples and between classes grow "
        "with the batch: published at 64."
    ),
)
