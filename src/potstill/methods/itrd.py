from potstill.methods.base import Preset

PRESET = Preset(
    name="itrd",
    loss="potstill.losses.itrd:ITRD",
    year=2022,
    compares="correlation and shared information of vectors",
    at="penultimate",
    weight=1.0,
    weight_source="1 on 2 x correlation + 1 x mutual information, beside cross-entropy 1 (the authors' command)",
    use_when="strong on vectors, at the price of one linear layer",
    notes="The loss is a logarithm and goes below 0. Correlations over small batches are noisy: published at 64.",
)
