from potstill.methods.base import Preset

PRESET = Preset(
    name="crd",
    loss="potstill.losses.crd:CRD",
    year=2020,
    compares="embeddings, contrasted with those of other samples",
    at="penultimate",
    weight=0.8,
    weight_source="0.8 (and 1 for KD in crd+kd): RepDistiller, the authors' code",
    use_when="the strongest of the classics in the tables of 2020; one number per sample and 128 dimensions of memory",
    notes=(
        "Two memories of (training samples x 128) floats are trained with it and kept in checkpoints. 16384 "
        "negatives as published; on a CPU negatives=1024 is about four times cheaper."
    ),
)
