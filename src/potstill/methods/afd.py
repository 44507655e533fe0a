from potstill.methods.base import Preset

PRESET = Preset(
    name="afd",
    loss="potstill.losses.afd:AFD",
    year=2021,
    compares="attention maps, paired by learned attention",
    at="stages",
    weight=200.0,
    weight_source="200 beside 0.9 KD and 1 cross-entropy, for WRN-40-2 and WRN-16-2: the authors' code",
    kd=0.9,
    use_when="nets with many or unlike stages: no pairing by hand",
    notes="The authors tap more maps than one a stage; give losses.afd.at=[...] to do so. Published together with KD.",
)
