"""The first pair that many tutorials on distillation use on CIFAR-10: VGG16's convolutions teach a net of three blocks."""

from __future__ import annotations

from torch import Tensor, nn

from potstill.errors import ModelError
from potstill.models.base import ZooNet, init_he


class Teacher(ZooNet):
    """The convolutions of VGG16, without BatchNorm, and one Linear. Its stages end at the poolings.

    Args:
        num_classes: length of the logits.
        in_channels: channels of a picture.
        relu_logits: put a ReLU on the logits, as the tutorial does. Not by default: it holds the logits of unlikely
            classes at 0, which hides most of what a teacher has to say, and a class whose logit is 0 gets no gradient.

    Paper: Simonyan, Zisserman, 2015, arXiv 1409.1556
    """

    stem, stages, head = "cnn.1", ("cnn.4", "cnn.9", "cnn.16", "cnn.23", "cnn.30"), "fc1"

    def __init__(self, num_classes: int = 10, in_channels: int = 3, relu_logits: bool = False) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width, depth in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
            for _ in range(depth):
                layers += [nn.Conv2d(in_channels, width, 3, padding=1), nn.ReLU()]
                in_channels = width
            layers.append(nn.MaxPool2d(2))
        self.cnn, self.avgpool = nn.Sequential(*layers), nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Linear(512, num_classes)
        self.last = nn.ReLU() if relu_logits else nn.Identity()
        init_he(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.fc1(self.avgpool(self.cnn(x)).flatten(1)))


class Block(nn.Module):
    """Two 3x3 convolutions with BatchNorm and ReLU, then a max-pooling of stride 2."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, padding=1),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x)


class Student(ZooNet):
    """Three blocks of 64, 128, 256 channels and one Linear on the flattened map: no global pooling.

    Args:
        num_classes: length of the logits.
        in_channels: channels of a picture.
        size: height and width of a picture. It fixes the length of the Linear: 4096 at 32 pixels.

    Raises:
        ModelError: a picture of another size (in the forward pass).
    """

    stem, stages, head = "block1.block.2", ("block1", "block2", "block3"), "fc"

    def __init__(self, num_classes: int = 10, in_channels: int = 3, size: int = 32) -> None:
        super().__init__()
        self.block1, self.block2, self.block3 = Block(in_channels, 64), Block(64, 128), Block(128, 256)
        self.size = size
        self.fc = nn.Linear(256 * (-(-size // 8)) ** 2, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        x = self.block3(self.block2(self.block1(x))).flatten(1)
        if x.shape[1] != self.fc.in_features:
            raise ModelError(
                f"this doc001_student takes pictures of {self.size}x{self.size}, got {height}x{width}: its Linear reads the "
                f"flattened map, {self.fc.in_features} numbers at that size",
                hint=f"zoo:doc001_student(size={height}), or resize the pictures",
            )
        return self.fc(x)
