"""Activation checkpointing: the backward pass computes a student's blocks again instead of keeping what they put out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from potstill.errors import ModelError
from potstill.proof import unlike
from potstill.schemes.scheme import Scheme
from potstill.schemes.spot_adaptive import SpotAdaptive
from potstill.taps import Tapped
from potstill.types import Out

LISTS = (nn.Sequential, nn.ModuleList)


def blocks(net: nn.Module) -> list[nn.Module]:
    """The blocks of which a net is a list: entries of its ``Sequential``s and ``ModuleList``s that have layers inside, of the
    innermost such lists; of a ResNet its residual blocks, of a transformer its layers."""
    found: list[nn.Module] = []
    for child in net.children():
        inner = blocks(child) if isinstance(child, LISTS) or not isinstance(net, LISTS) else []
        if not inner and isinstance(net, LISTS) and any(True for _ in child.children()):
            inner = [child]
        found += inner
    return list(dict.fromkeys(found))


class Recomputed(Tapped):
    """A net whose blocks keep their inputs only and are run again in the backward pass (arXiv 1604.06174): less memory, for
    about a third more time. Says what :class:`potstill.taps.Tapped` says, to the last bit.

    The second run draws the same random numbers and does not count for the statistics of BatchNorm. The net itself is as it was
    between the passes.

    Raises:
        ModelError: the net has no list of blocks.
    """

    def __init__(self, tapped: Tapped) -> None:
        super().__init__(tapped.net, tapped.spots, tapped.prepare, tapped.order)
        self.parts = blocks(tapped.net)
        if not self.parts:
            raise ModelError(
                f"{type(tapped.net).__name__} has no list of blocks (Sequential or ModuleList) that could be computed again",
                hint="checkpoint_activations=false; accumulate=2 saves memory for any net",
            )

    def forward(self, x: Tensor) -> Out:
        own = [(part, part.__dict__.get("forward")) for part in self.parts]
        for part in self.parts:
            part.forward = partial(_kept, part, part.forward)
        try:
            return super().forward(x)
        finally:
            for part, before in own:
                if before is None:
                    del part.forward
                else:
                    part.forward = before


def spare(scheme: Scheme | SpotAdaptive, x: Tensor | None = None) -> None:
    """Let the student of a scheme keep less. On a batch ``x`` it is proved that this changes nothing else.

    Raises:
        ModelError: the student has no blocks, or a block does something else the second time.
    """
    tapped = scheme.nets["student"]
    if type(tapped) is Tapped:
        scheme.nets["student"] = Recomputed(tapped).train(tapped.training)
    elif isinstance(tapped, Recomputed) and x is not None:
        plain = Tapped(tapped.net, tapped.spots, tapped.prepare, tapped.order)
        if reason := unlike(plain, tapped, x):
            raise ModelError(
                f"the student cannot be computed again in the backward pass: {reason}",
                why="a block does something else the second time: it counts, or draws numbers of its own",
                hint="checkpoint_activations=false; accumulate=2 saves memory for any net",
            )


def _kept(part: nn.Module, forward: Any, *args: Any, **kwargs: Any) -> Any:
    contexts: Any = lambda: (nullcontext(), _again(part))  # noqa: E731
    return checkpoint(forward, *args, use_reentrant=False, context_fn=contexts, **kwargs)


@contextmanager
def _again(part: nn.Module) -> Iterator[None]:
    """A second run: norms normalise by the batch, as in the first, and their statistics stay."""
    norms: list[Any] = [m for m in part.modules() if getattr(m, "track_running_stats", False) and m.training]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
