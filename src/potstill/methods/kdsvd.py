from potstill.methods.base import Preset

PRESET = Preset(
    name="kdsvd",
    loss="potstill.losses.kdsvd:KDSVD",
    year=2018,
    compares="singular vectors of maps",
    at="stages",
    weight=1.0,
    weight_source="1: mdistiller and RepDistiller",
    use_when="to repeat the paper: student and teacher of equal widths",
    notes=(
        "Only for equal channels. A sum over all pairs of channels. The signs of singular vectors are the "
        "solver's; signs=positive makes the loss the same on all machines."
    ),
)
