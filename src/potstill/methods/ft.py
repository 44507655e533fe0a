from potstill.methods.base import Before, Preset

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
    before=Before(
        share=30 / 240,
        use="potstill.losses._paraphraser:Paraphrase",
        trains="adapters",
        lr=0.2,
        source="30 epochs beside 240 at a learning rate of 0.01, where the main stage has 0.05: RepDistiller",
    ),
    use_when="to repeat the paper",
    notes=(
        "In two stages, as published: first a paraphraser of the teacher's map alone, the student waits (5 epochs at a learning "
        "rate of 0.1 by the authors: before.share=0.03, before.lr=1 where optim.lr is 0.1); then this loss with it, frozen. "
        "before=false leaves the paraphraser random. The paraphraser of a ResNet-50 has 132 million "
        "parameters."
    ),
)
