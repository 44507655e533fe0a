"""What every net of the zoo says about itself."""

from __future__ import annotations

from torch import nn


class ZooNet(nn.Module):
    """A net that says where its stages end. It is called once, gives logits, and has no ReLU that works in place.

    Parameters are named as in RepDistiller, so that the checkpoints of the field load.

    Attributes:
        stem: path of the layer in front of the first stage.
        stages: paths of the modules whose outputs are the maps f1 ... fn of the tables, the stem excluded.
        head: path of the last Linear; ``head@in`` is the penultimate vector.
    """

    stem: str
    stages: tuple[str, ...]
    head: str


def init_he(net: nn.Module, head_std: float | None = None) -> None:
    """Convolutions from N(0, 2 / (k² · outputs)) (He et al., arXiv 1502.01852, fan-out), their biases 0.

    Args:
        net: the net, changed in place.
        head_std: standard deviation of Linear weights, with biases 0; None leaves torch's own start.
    """
    for m in net.modules():
        if isinstance(m, nn.Conv2d):
            nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")
            if m.bias is not None:
                nn.init.zeros_(m.bias)
        elif isinstance(m, nn.Linear) and head_std is not None:
            nn.init.normal_(m.weight, std=head_std)
            nn.init.zeros_(m.bias)
