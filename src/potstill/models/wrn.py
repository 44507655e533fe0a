"""Wide ResNets: wrn_16_1 ... wrn_28_10."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from potstill.errors import ModelError
from potstill.models.base import ZooNet, init_he
from potstill.models.resnet import conv3x3


class Block(nn.Module):
    """BatchNorm and ReLU come before each convolution; where the shape changes the shortcut starts after the first ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.relu1, self.conv1 = nn.BatchNorm2d(inputs), nn.ReLU(), conv3x3(inputs, outputs, stride)
        self.bn2, self.relu2, self.conv2 = nn.BatchNorm2d(outputs), nn.ReLU(), conv3x3(outputs, outputs)
        self.convShortcut = None if inputs == outputs else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu1(self.bn1(x))
        if self.convShortcut is not None:
            x = self.convShortcut(y)
        return x + self.conv2(self.relu2(self.bn2(self.conv1(y))))


class Blocks(nn.Module):
    """A stage: the blocks are in ``layer``."""

    def __init__(self, depth: int, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        more = (Block(outputs, outputs, 1) for _ in range(depth - 1))
        self.layer = nn.Sequential(Block(inputs, outputs, stride), *more)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class WideResNet(ZooNet):
    """Wide ResNet of depth 6n + 4 (here without dropout).

    A stage puts out the raw residual stream, signed and not normalised. The pre-activations that some methods compare
    are ``block2.layer.0.relu1@in``, ``block3.layer.0.relu1@in`` and ``relu@in``.

    Args:
        depth: number of layers, 6n + 4.
        widen: factor k of the widths 16k, 32k, 64k.
        num_classes: length of the logits; 100, as in the tables of the field.
        in_channels: channels of a picture.

    Raises:
        ModelError: the depth is not 6n + 4.

    Paper: Zagoruyko, Komodakis, 2016, arXiv 1605.07146
    """

    stem, stages, head = "conv1", ("block1", "block2", "block3"), "fc"

    def __init__(self, depth: int, widen: int = 1, num_classes: int = 100, in_channels: int = 3) -> None:
        super().__init__()
        n, rest = divmod(depth - 4, 6)
        if n < 1 or rest:
            raise ModelError(f"a wide ResNet has depth 6n + 4 (10, 16, 22, ...), got {depth}")
        width = 16 * widen
        self.conv1 = conv3x3(in_channels, 16)
        self.block1 = Blocks(n, 16, width, 1)
        self.block2 = Blocks(n, width, 2 * width, 2)
        self.block3 = Blocks(n, 2 * width, 4 * width, 2)
        self.bn1, self.relu = nn.BatchNorm2d(4 * width), nn.ReLU()
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(4 * width, num_classes)
        init_he(self)
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block3(self.block2(self.block1(self.conv1(x))))
        return self.fc(self.avgpool(self.relu(self.bn1(x))).flatten(1))


wrn_16_1, wrn_16_2, wrn_40_1, wrn_40_2, wrn_28_10 = (
    partial(WideResNet, depth, widen) for depth, widen in ((16, 1), (16, 2), (40, 1), (40, 2), (28, 10))
)
