from potstill.methods.base import Preset

PRESET = Preset(
    name="ft",
    loss="potstill.losses.ft:FT",
    year=2018,
    compares="factors of the last map",
    at="last",
    weight=200.0,
    weight_source=(
        "200 with form=attention: RepDistiller's tables; 500 with form=factor and batch_norm=False: the authors' code"
    ),
    use_when="to repeat the paper",
    notes=(
        "Published in two stages: first a paraphraser of the teacher's map alone (losses/_paraphraser.py: "
        "Paraphrase; 30 epochs at a learning rate of 0.01 in RepDistiller, 5 at 0.1 by the authors), then "
        "this loss with it (t_paraphraser), frozen. The paraphraser of a ResNet-50 has 132 million "
        "parameters."
    ),
)
