from potstill.methods.base import Preset

PRESET = Preset(
    name="cc",
    loss="potstill.losses.cc:CC",
    year=2019,
    compares="correlations between neighbours of the batch",
    at="penultimate",
    weight=0.02,
    weight_source="0.02 with embeddings of 128: RepDistiller's tables",
    use_when="to repeat published tables; kernel form for the paper's idea",
    notes=(
        "The weight belongs to 128 dimensions (the loss is a sum over them) and to the neighbour form; the kernel form is "
        "smaller by orders of magnitude and has no published weight in this form."
    ),
)
