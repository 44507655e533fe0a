from potstill.methods.base import Preset

PRESET = Preset(
    name="mgd",
    loss="potstill.losses.mgd:MGD",
    year=2022,
    compares="the last map, generated from a masked one",
    at="last",
    weight=7e-5,
    weight_source="7e-5 with masked=0.15 for ImageNet (ResNet-34 and -18): the authors' configuration",
    use_when="dense maps (detection, segmentation), where masked=0.75, mask=pixel and weight 2e-5 are published",
    notes="A sum over the map: the weight is tied to 512 channels at 7x7.",
)
