"""MobileNetV2 for small pictures: mobile_half (the tables' "MobileNetV2") and mobilev2 (full width)."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from potstill.models.base import ZooNet, init_he


def conv_bn(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(outputs)]


class InvertedResidual(nn.Module):
    """1x1 to ``expand`` times the channels, depthwise 3x3, 1x1 back without a ReLU; a sum where the shapes allow."""

    def __init__(self, inputs: int, outputs: int, stride: int, expand: int) -> None:
        super().__init__()
        hidden = inputs * expand
        self.conv = nn.Sequential(
            *conv_bn(inputs, hidden, 1),
            nn.ReLU(),
            *conv_bn(hidden, hidden, 3, stride, groups=hidden),
            nn.ReLU(),
            *conv_bn(hidden, outputs, 1),
        )
        self.sums = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.sums else self.conv(x)


class MobileNetV2(ZooNet):
    """MobileNetV2 with plain ReLU, a stem of stride 2 and fewer strides after it.

    A stage puts out a linear bottleneck: signed, no ReLU after it.

    Args:
        width: factor of all channels but the last 1280. 0.5 in the tables of RepDistiller and most later work; the
            authors of spot-adaptive distillation took 1.0, so their columns compare with nobody's.
        expand: expansion of a block, 6.
        num_classes: length of the logits; 100, as in the tables of the field.
        in_channels: channels of a picture.

    Paper: Sandler et al., 2018, arXiv 1801.04381
    """

    stem, stages, head = "conv1", ("blocks.1", "blocks.2", "blocks.4", "blocks.6"), "classifier.0"

    def __init__(self, width: float = 1.0, expand: int = 6, num_classes: int = 100, in_channels: int = 3) -> None:
        super().__init__()
        inputs = int(32 * width)
        self.conv1 = nn.Sequential(*conv_bn(in_channels, inputs, 3, 2), nn.ReLU())
        self.blocks = nn.ModuleList()
        for channels, depth, stride in (
            (16, 1, 1),
            (24, 2, 1),
            (32, 3, 2),
            (64, 4, 2),
            (96, 3, 1),
            (160, 3, 2),
            (320, 1, 1),
        ):
            outputs = int(channels * width)
            blocks = []
            for i in range(depth):
                blocks.append(
                    InvertedResidual(inputs, outputs, stride if i == 0 else 1, expand if len(self.blocks) else 1)
                )
                inputs = outputs
            self.blocks.append(nn.Sequential(*blocks))
        last = max(1280, int(1280 * width))
        self.conv2 = nn.Sequential(*conv_bn(inputs, last, 1), nn.ReLU())
        self.avgpool, self.classifier = nn.AdaptiveAvgPool2d(1), nn.Sequential(nn.Linear(last, num_classes))
        init_he(self, head_std=0.01)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        for block in self.blocks:
            x = block(x)
        return self.classifier(self.avgpool(self.conv2(x)).flatten(1))


mobile_half, mobilev2 = (partial(MobileNetV2, width) for width in (0.5, 1.0))
