"""Training with fake quantizers in the net: the float teacher watches (QAD), or the labels do (QAT)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor, fx, nn

from potstill.compress.program import Whole
from potstill.errors import ConfigError, DivergedError
from potstill.losses.ce import CE
from potstill.losses.kd import KD
from potstill.models.net import Net
from potstill.taps import Tapped
from potstill.types import Batch


def train(
    graph: fx.GraphModule,
    batches: Iterable[Batch],
    steps: int,
    teacher: Callable[[Tensor], Tensor] | None = None,
    *,
    features: Features | None = None,
    lr: float = 5e-3,
    temperature: float = 1.0,
    labels: float = 0.0,
    step: Callable[[int, float], None] = lambda i, loss: None,
) -> float:
    r"""Train a fake-quantized net, in place.

    .. math:: \ell = T^2\,\mathrm{KL}(p^t \| p^s) + w_y\,\mathrm{CE}(y, p^s) + w_f\,\frac{\|f^s - f^t\|^2}{\|f^t\|^2}

    Without a teacher the cross-entropy is all there is. SGD with momentum 0.9, a learning rate that falls as a cosine, and
    the KL at T = 1 without labels, as quantization-aware distillation is done (arXiv 2601.20088, 1911.12491). The ranges of
    activations are those of the calibration throughout; those of weights follow the weights.

    Args:
        graph: of :func:`potstill.compress.graphs.prepared`, calibrated.
        batches: endless, or at least ``steps``; pictures in [0, 1].
        teacher: pictures -> logits; None trains on the labels.
        features: also match the float net's features, see :class:`Features`.
        temperature, labels: T and w_y, with a teacher.
        step: called after each step with its number, from 1, and the loss of some step before.

    Returns:
        the loss of the last step.

    Raises:
        DivergedError: the loss is not finite.
    """
    parameters = [p for p in graph.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr, momentum=0.9)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: 0.5 * (1 + math.cos(math.pi * min(i / steps, 1))))
    kd, ce = KD(temperature), CE()
    last = torch.zeros(())
    for i, batch in zip(range(1, steps + 1), batches, strict=False):
        if features is not None:
            features.watch()
        s = graph(batch.x)
        if teacher is None:
            loss = ce(s, None, batch).mean()
        else:
            with torch.no_grad():
                t = teacher(batch.x)
            loss = kd(s, t).mean() + (labels * ce(s, None, batch).mean() if labels else 0.0)
        if features is not None:
            loss = loss + features.loss(batch.x)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        last = loss.detach()
        if i % 25 == 0 or i == steps:
            if not last.isfinite():
                raise DivergedError(
                    f"the loss is not finite at step {i} of quantization-aware training", hint="a lower lr"
                )
            step(i, float(last))
    return float(last)


def endless(epoch: Callable[[int], Iterable[Batch]]) -> Iterator[Batch]:
    """The batches of all epochs."""
    e = 0
    while True:
        yield from epoch(e)
        e += 1


class Features:
    """Features of the fake-quantized net beside those of the float net that it was made from.

    Args:
        graph: the fake-quantized net.
        net: the float net.
        spots: module paths whose outputs are compared, such as the ends of the stages.
        weight: of their loss, the mean over the spots of the squared distance over the squared norm.

    Raises:
        ConfigError: the output of a spot is not quantized, so it cannot be heard.
    """

    def __init__(self, graph: fx.GraphModule, net: Net, spots: Sequence[str], weight: float = 1.0) -> None:
        self.weight, self.spots = weight, spots
        whole = Whole(net)
        self.tapped = Tapped(whole.net, spots, whole.prepare).eval()
        self.heard: dict[str, Tensor] = {}
        for spot in spots:
            _fake_after(graph, spot).register_forward_hook(lambda m, a, out, spot=spot: self.heard.update({spot: out}))

    def watch(self) -> None:
        """Forget what was heard."""
        self.heard.clear()

    def loss(self, x: Tensor) -> Tensor:
        """Of the batch that the graph has just run on."""
        with torch.no_grad():
            said = self.tapped(x)
        parts = [
            (self.heard[s] - said[s]).square().mean() / said[s].square().mean().clamp_min(1e-12) for s in self.spots
        ]
        return self.weight * torch.stack(parts).mean()


def _fake_after(graph: fx.GraphModule, spot: str) -> nn.Module:
    """The fake quantizer of a module's output."""
    inside = [
        node
        for node in graph.graph.nodes
        if any(path == f"net.{spot}" for path, _ in (node.meta.get("nn_module_stack") or {}).values())
    ]
    for node in reversed(inside):
        for near in (node, *node.users):
            if near.op == "call_module" and "activation_post_process" in str(near.target):
                return graph.get_submodule(str(near.target))
        break
    raise ConfigError(
        f"the output of {spot!r} is not quantized, so its features cannot be compared",
        hint="a spot after a convolution or sum",
    )
