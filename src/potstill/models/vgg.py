"""VGG with BatchNorm for small pictures: vgg8 ... vgg19."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from potstill.models.base import ZooNet, init_he


def convs(depth: int, inputs: int, outputs: int) -> nn.Sequential:
    """3x3 convolutions with BatchNorm, ReLU between them but not after the last."""
    layers: list[nn.Module] = []
    for i in range(depth):
        layers += [nn.Conv2d(outputs if i else inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class VGG(ZooNet):
    """VGG with BatchNorm and one Linear.

    There is a max-pooling after each of the first three blocks, and after the fourth only in pictures of 64 pixels and
    more: at 32 pixels the last two stages are both 4x4. A stage ends at its ReLU; ``relu3@in`` is its pre-activation.

    Args:
        depths: number of convolutions of each of the five blocks.
        num_classes: length of the logits; 100, as in the tables of the field.
        in_channels: channels of a picture.

    Paper: Simonyan, Zisserman, 2015, arXiv 1409.1556
    """

    stem, stages, head = "relu0", ("relu1", "relu2", "relu3", "relu4"), "classifier"

    def __init__(self, depths: tuple[int, int, int, int, int], num_classes: int = 100, in_channels: int = 3) -> None:
        super().__init__()
        self.block0, self.relu0, self.pool0 = convs(depths[0], in_channels, 64), nn.ReLU(), nn.MaxPool2d(2)
        self.block1, self.relu1, self.pool1 = convs(depths[1], 64, 128), nn.ReLU(), nn.MaxPool2d(2)
        self.block2, self.relu2, self.pool2 = convs(depths[2], 128, 256), nn.ReLU(), nn.MaxPool2d(2)
        self.block3, self.relu3, self.pool3 = convs(depths[3], 256, 512), nn.ReLU(), nn.MaxPool2d(2)
        self.block4, self.relu4, self.pool4 = convs(depths[4], 512, 512), nn.ReLU(), nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(512, num_classes)
        init_he(self, head_std=0.01)

    def forward(self, x: Tensor) -> Tensor:
        large = x.shape[2] >= 64
        x = self.pool0(self.relu0(self.block0(x)))
        x = self.pool1(self.relu1(self.block1(x)))
        x = self.pool2(self.relu2(self.block2(x)))
        x = self.relu3(self.block3(x))
        x = self.relu4(self.block4(self.pool3(x) if large else x))
        return self.classifier(self.pool4(x).flatten(1))


vgg8, vgg11, vgg13, vgg16, vgg19 = (
    partial(VGG, depths)
    for depths in ((1, 1, 1, 1, 1), (1, 1, 2, 2, 2), (2, 2, 2, 2, 2), (2, 2, 3, 3, 3), (2, 2, 4, 4, 4))
)
