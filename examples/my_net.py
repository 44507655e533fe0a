"""A net of your own. potstill asks nothing of it but to map pictures to logits:

    potstill distill --teacher zoo:resnet56 --student examples/my_net.py:MyNet ...

Parameters called `num_classes` and `in_channels` are filled in from the data; others can be set in the name:
`examples/my_net.py:MyNet(width=32)`. `stages` is optional: it says which layers methods on feature maps compare.
"""

from itertools import pairwise

from torch import Tensor, nn


class MyNet(nn.Module):
    stages = ("body.0", "body.1", "body.2")

    def __init__(self, num_classes: int, in_channels: int = 3, width: int = 16) -> None:
        super().__init__()
        widths = (in_channels, width, 2 * width, 4 * width)
        self.body = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(a, b, 3, stride=2, padding=1), nn.BatchNorm2d(b), nn.ReLU())
                for a, b in pairwise(widths)
            )
        )
        self.head = nn.Linear(widths[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean((2, 3)))
