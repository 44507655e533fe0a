"""Which layers does quantization hurt? Each is quantized alone, and the net's answers are held against the float ones."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from potstill.compress.program import Whole
from potstill.models.net import Net

LAYERS = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


class Blame(NamedTuple):
    """What one layer does to the answers when it alone is quantized.

    Attributes:
        path: of the layer.
        kl: mean over the pictures of KL(float || quantized), in nats.
        flips: share of the pictures whose best class changes.
    """

    path: str
    kl: float
    flips: float


class Simulation:
    """A net whose layers can be quantized one by one, in float arithmetic: weights and what a layer reads.

    With a scale for each channel, folding BatchNorm into the weights does not change their rounding, so the layers stand here
    as they are. What sums and outputs lose is left out.

    Args:
        net: not changed.
        pictures: (N, C, H, W), in [0, 1]: a few hundred.
        bits: of the weights; what a layer reads has 8.
        per_channel: a scale for each output channel.
    """

    def __init__(self, net: Net, pictures: Tensor, bits: int = 8, per_channel: bool = True) -> None:
        self.whole, self.pictures = Whole(net), pictures
        self.layers = {path: m for path, m in self.whole.net.named_modules() if isinstance(m, LAYERS)}
        self.ranges: dict[str, tuple[Tensor, Tensor]] = {}
        hooks = [m.register_forward_pre_hook(self._observer(path)) for path, m in self.layers.items()]
        self.float_logits = self._logits()
        for hook in hooks:
            hook.remove()
        self.layers = {path: m for path, m in self.layers.items() if path in self.ranges}
        self.weights = {path: _rounded(m, bits, per_channel) for path, m in self.layers.items()}

    def _observer(self, path: str) -> Any:
        def observe(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            low, high = self.ranges.get(path, (torch.zeros(()), torch.zeros(())))
            self.ranges[path] = torch.minimum(low, args[0].min()), torch.maximum(high, args[0].max())

        return observe

    def _logits(self) -> Tensor:
        with torch.no_grad():
            return torch.cat([self.whole(x) for x in self.pictures.split(128)])

    def logits(self, paths: Collection[str]) -> Tensor:
        """With these layers quantized, (N, classes)."""
        with self._quantized(paths):
            return self._logits()

    @contextmanager
    def _quantized(self, paths: Collection[str]) -> Iterator[None]:
        hooks = []
        before = {path: self.layers[path].weight.data for path in paths}
        try:
            for path in paths:
                self.layers[path].weight.data = self.weights[path]
                low, high = self.ranges[path]
                scale = ((high - low) / 255).clamp_min(1e-12)
                zero = (-low / scale).round()
                hooks.append(
                    self.layers[path].register_forward_pre_hook(
                        lambda m, a, s=scale, z=zero: (((a[0] / s).round() + z).clamp(0, 255).sub(z) * s, *a[1:])
                    )
                )
            yield
        finally:
            for hook in hooks:
                hook.remove()
            for path, weight in before.items():
                self.layers[path].weight.data = weight

    def flips(self, paths: Collection[str]) -> float:
        """Share of the pictures whose best class changes when these layers are quantized."""
        return float((self.logits(paths).argmax(1) != self.float_logits.argmax(1)).float().mean())

    def blames(self) -> list[Blame]:
        """All layers, the one that hurts most first."""
        p = self.float_logits.log_softmax(1)
        found = []
        for path in self.layers:
            z = self.logits([path])
            kl = (p.exp() * (p - z.log_softmax(1))).sum(1).mean()
            found.append(Blame(path, float(kl), float((z.argmax(1) != self.float_logits.argmax(1)).float().mean())))
        return sorted(found, key=lambda b: -b.kl)

    def to_keep(self, allowed: float) -> list[str]:
        """The fewest layers, the ones that hurt most, that must stay float for at most this share of flips."""
        order = [b.path for b in self.blames()]
        low, high = 0, len(order)  # with `high` layers float it is met: with all of them nothing is quantized
        while low < high:
            middle = (low + high) // 2
            if self.flips(order[middle:]) <= allowed:
                high = middle
            else:
                low = middle + 1
        return order[:high]


def _rounded(module: nn.Module, bits: int, per_channel: bool) -> Tensor:
    """A layer's weights as 2^bits - 1 levels can hold them."""
    w: Any = module.weight
    axis = 1 if isinstance(module, nn.ConvTranspose2d) else 0
    rest = [i for i in range(w.ndim) if not per_channel or i != axis]
    top = 2 ** (bits - 1) - 1
    scale = (w.detach().abs().amax(rest, keepdim=True) / top).clamp_min(1e-20)
    rounded: Tensor = (w.detach() / scale).round().clamp(-top, top) * scale
    return rounded
