from potstill.methods.base import Preset

PRESET = Preset(
    name="ctkd",
    loss="potstill.losses.ctkd:CTKD",
    year=2023,
    compares="class probabilities, at a learned temperature",
    at="logits",
    weight=0.9,
    weight_source="0.9 and cross-entropy 0.1, as KD (the authors' script)",
    ce=0.1,
    use_when="to spare the search for a temperature; compare with kd at several",
    notes=(
        "Ten of 240 epochs of growing reversal. In published logs T falls to its lowest value within five epochs and stays "
        "there. Weight decay acts on the temperature too."
    ),
)
