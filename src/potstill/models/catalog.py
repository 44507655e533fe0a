"""The nets of the zoo by name: where they are, what they cost, how fast they like to learn. No torch here."""

from __future__ import annotations

from typing import NamedTuple

from potstill.errors import ModelError, did_you_mean


class Entry(NamedTuple):
    """A net of the zoo.

    Attributes:
        target: where its factory is, ``module:name``; it takes ``num_classes`` and ``in_channels``.
        parameters: number of parameters at 100 classes and 3 channels.
        macs: multiply-adds of a forward pass at 100 classes and 3x32x32 (convolutions and Linears).
        lr: learning rate for SGD with momentum 0.9 and batches of 64, the start of a step schedule.
        note: what it is, in a line.
    """

    target: str
    parameters: int
    macs: int
    lr: float
    note: str


def _family(module: str, lr: float, nets: dict[str, tuple[int, int, str]]) -> dict[str, Entry]:
    return {name: Entry(f"potstill.models.{module}:{name}", p, m, lr, note) for name, (p, m, note) in nets.items()}


CATALOG: dict[str, Entry] = {
    "cnn": Entry("potstill.models.cnn:CNN", 3_140, 517_696, 0.05, "tiny net for tiny pictures; cnn(widths=(8, 16))"),
    **_family(
        "resnet",
        0.05,
        {
            "resnet8": (83_892, 12_507_392, "CIFAR ResNet, widths 16, 32, 64"),
            "resnet14": (181_108, 26_663_168, "CIFAR ResNet, widths 16, 32, 64"),
            "resnet20": (278_324, 40_818_944, "CIFAR ResNet, the usual student of resnet56 and resnet110"),
            "resnet32": (472_756, 69_130_496, "CIFAR ResNet, the usual student of resnet110"),
            "resnet44": (667_188, 97_442_048, "CIFAR ResNet, widths 16, 32, 64"),
            "resnet56": (861_620, 125_753_600, "CIFAR ResNet, the usual teacher of resnet20"),
            "resnet110": (1_736_564, 253_155_584, "CIFAR ResNet, the usual teacher of resnet20 and resnet32"),
            "resnet8x4": (1_233_540, 177_071_104, "CIFAR ResNet, widths 64, 128, 256; the usual student of resnet32x4"),
            "resnet32x4": (7_433_860, 1_083_040_768, "CIFAR ResNet, widths 64, 128, 256; a usual teacher"),
        },
    ),
    **_family(
        "resnet_imagenet",
        0.05,
        {
            "ResNet18": (11_220_132, 555_468_800, "ImageNet ResNet with a CIFAR stem"),
            "ResNet34": (21_328_292, 1_159_448_576, "ImageNet ResNet with a CIFAR stem"),
            "ResNet50": (23_705_252, 1_298_014_208, "ImageNet ResNet with a CIFAR stem; a usual teacher"),
            "ResNet101": (42_697_380, 2_510_168_064, "ImageNet ResNet with a CIFAR stem"),
            "ResNet152": (58_341_028, 3_722_321_920, "ImageNet ResNet with a CIFAR stem"),
        },
    ),
    **_family(
        "wrn",
        0.05,
        {
            "wrn_16_1": (180_916, 26_663_168, "wide ResNet, depth 16, factor 1"),
            "wrn_16_2": (703_284, 101_118_464, "wide ResNet, depth 16, factor 2; a usual student of wrn_40_2"),
            "wrn_40_1": (569_780, 83_286_272, "wide ResNet, depth 40, factor 1; a usual student of wrn_40_2"),
            "wrn_40_2": (2_255_156, 327_610_880, "wide ResNet, depth 40, factor 2; a usual teacher"),
            "wrn_28_10": (36_536_884, 5_243_386_368, "wide ResNet, depth 28, factor 10; large"),
        },
    ),
    **_family(
        "vgg",
        0.05,
        {
            "vgg8": (3_965_028, 96_192_512, "VGG with BatchNorm; the usual student of vgg13"),
            "vgg11": (9_277_284, 209_438_720, "VGG with BatchNorm"),
            "vgg13": (9_462_180, 284_936_192, "VGG with BatchNorm; a usual teacher"),
            "vgg16": (14_774_436, 398_182_400, "VGG with BatchNorm"),
            "vgg19": (20_086_692, 511_428_608, "VGG with BatchNorm"),
        },
    ),
    **_family(
        "mobilenetv2",
        0.01,
        {
            "mobile_half": (812_836, 6_523_648, "MobileNetV2 of half width, the tables' MobileNetV2"),
            "mobilev2": (2_353_060, 22_381_056, "MobileNetV2 of full width; not the one in most tables"),
        },
    ),
    **_family("shufflenetv1", 0.01, {"ShuffleV1": (949_258, 38_691_456, "ShuffleNet V1, three groups")}),
    **_family("shufflenetv2", 0.01, {"ShuffleV2": (1_355_528, 44_504_448, "ShuffleNet V2, width 1")}),
    "doc001_teacher": Entry(
        "potstill.models.doc001:Teacher",
        14_765_988,
        313_247_744,
        0.01,
        "VGG16's convolutions without BatchNorm, one Linear",
    ),
    "doc001_student": Entry(
        "potstill.models.doc001:Student",
        1_556_900,
        153_174_016,
        0.05,
        "three blocks of 64, 128, 256 channels; 32 pixels only",
    ),
}
"""Every net of the zoo. Learning rates: RepDistiller's tables; 0.01 for the VGG without BatchNorm, as on ImageNet."""

ALIASES: dict[str, str] = {
    "mobilenetv2": "mobile_half",
    "mobilenetv2_half": "mobile_half",
    "shufflenetv1": "ShuffleV1",
    "shufflenetv2": "ShuffleV2",
    "vgg8_bn": "vgg8",
    "vgg11_bn": "vgg11",
    "vgg13_bn": "vgg13",
    "vgg16_bn": "vgg16",
    "vgg19_bn": "vgg19",
    "vgg16_plain": "doc001_teacher",
    "three_blocks": "doc001_student",
}
"""Other names of the field, in lower case."""


def known(name: str) -> str | None:
    """The zoo's own name of a net, or None. Upper case and hyphens do not matter."""
    plain = name.lower().replace("-", "_")
    return ALIASES.get(plain) or next((n for n in CATALOG if n.lower() == plain), None)


def find(name: str) -> tuple[str, Entry]:
    """The zoo's own name of a net, and its entry.

    Raises:
        ModelError: the zoo has no such net; the nearest name is given.
    """
    own = known(name)
    if own is None:
        raise ModelError(
            f"the zoo has no net {name!r}.{did_you_mean(name, [*CATALOG, *ALIASES])}",
            hint="potstill list models",
        )
    return own, CATALOG[own]
