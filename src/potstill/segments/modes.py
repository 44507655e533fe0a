"""For the length of a block: a net in eval mode, parameters without gradients. Afterwards all is as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(*nets: nn.Module) -> Iterator[None]:
    """Eval mode inside the block; afterwards every module's own mode again."""
    modes = [(m, m.training) for net in nets for m in net.modules()]
    try:
        for net in nets:
            net.eval()
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def without_slopes(*nets: nn.Module) -> Iterator[None]:
    """What is computed inside the block sends no gradient to parameters of ``nets``; graphs made before are untouched."""
    on = list({id(p): p for net in nets for p in net.parameters() if p.requires_grad}.values())
    try:
        for p in on:
            p.requires_grad_(False)
        yield
    finally:
        for p in on:
            p.requires_grad_(True)
