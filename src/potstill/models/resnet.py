"""The CIFAR ResNets: resnet8 ... resnet110, resnet8x4, resnet32x4."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from potstill.errors import ModelError
from potstill.models.base import ZooNet, init_he


def conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions; the ReLU comes after the sum, whose pre-activation is ``relu2@in``."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1, self.relu1 = conv3x3(inputs, outputs, stride), nn.BatchNorm2d(outputs), nn.ReLU()
        self.conv2, self.bn2, self.relu2 = conv3x3(outputs, outputs), nn.BatchNorm2d(outputs), nn.ReLU()
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        return self.relu2(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(ZooNet):
    """ResNet for small pictures, of depth 6n + 2, with a 1x1 convolution where the shape changes (not "option A").

    Args:
        depth: number of layers, 6n + 2.
        widths: channels of the stem and of the three stages.
        num_classes: length of the logits; 100, as in the tables of the field.
        in_channels: channels of a picture.

    Raises:
        ModelError: the depth is not 6n + 2.

    Paper: He, Zhang, Ren, Sun, 2016, arXiv 1512.03385
    """

    stem, stages, head = "relu", ("layer1", "layer2", "layer3"), "fc"
    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential

    def __init__(
        self,
        depth: int,
        widths: tuple[int, int, int, int] = (16, 16, 32, 64),
        num_classes: int = 100,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        n, rest = divmod(depth - 2, 6)
        if n < 1 or rest:
            raise ModelError(f"a CIFAR ResNet has depth 6n + 2 (8, 14, 20, ...), got {depth}")
        self.conv1, self.bn1, self.relu = conv3x3(in_channels, widths[0]), nn.BatchNorm2d(widths[0]), nn.ReLU()
        for i, stride in enumerate((1, 2, 2), 1):
            first = BasicBlock(widths[i - 1], widths[i], stride)
            more = (BasicBlock(widths[i], widths[i], 1) for _ in range(n - 1))
            self.add_module(f"layer{i}", nn.Sequential(first, *more))
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(widths[3], num_classes)
        init_he(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(self.avgpool(x).flatten(1))


resnet8, resnet14, resnet20, resnet32, resnet44, resnet56, resnet110 = (
    partial(ResNet, depth) for depth in (8, 14, 20, 32, 44, 56, 110)
)
resnet8x4, resnet32x4 = (partial(ResNet, depth, (32, 64, 128, 256)) for depth in (8, 32))
