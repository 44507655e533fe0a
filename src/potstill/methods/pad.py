from potstill.methods.base import Before, Preset

PRESET = Preset(
    name="pad",
    loss="potstill.losses.pad:PAD",
    year=2020,
    compares="the penultimate vector, weighted by a learned uncertainty",
    at="penultimate",
    weight=1.0,
    weight_source="1: the paper's loss beside cross-entropy",
    before=Before(
        share=90 / 120,
        use="potstill.losses._distance:Distance",
        alone=False,
        main_lr=0.1,
        source="90 epochs of the plain distance, then 30 at a tenth of the learning rate: torchdistill's ImageNet recipe",
    ),
    use_when="some samples are much harder than others, or mislabelled",
    notes=(
        "In two stages, as published: first the plain squared distance beside the labels, then "
        "this loss in its place, which takes over the regressor. before=false starts with the uncertainty. It can weight any "
        "loss that gives one number a sample: PAD(s_shape, t_shape, loss)."
    ),
)
