"""The stages before the main one: which parts of a student their losses reach, and the schemes that train just these."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from potstill.losses.base import Loss
from potstill.methods.base import Before
from potstill.schemes.scheme import Scheme
from potstill.taps import Tapped


@dataclass(frozen=True)
class First:
    """A stage before the main one, built.

    Attributes:
        name: of the loss that it belongs to, and of the stage in ``metrics.jsonl``.
        scheme: what it trains; it shares the student and the losses with the other stages.
        plan: its share of the epochs and its learning rates.
        up_to: the student's spots that the loss reads; empty where the student is left alone, or trained whole.
    """

    name: str
    scheme: Scheme
    plan: Before
    up_to: tuple[str, ...] = ()


def parts(loss: Loss) -> dict[str, nn.Module]:
    """What a loss of an earlier stage hands on, as facts: its ``regressor`` as ``s_regressor`` and ``t_regressor``."""
    return {f"{side}_{name}": child for name, child in loss.named_children() for side in "st"}


def reached(
    net: nn.Module, spots: Sequence[str], x: Tensor, prepare: nn.Module | None = None
) -> tuple[list[nn.Parameter], list[nn.Module]]:
    """The parameters of ``net`` that what it says at ``spots`` depends on; and its layers on which nothing there depends.

    Found by one backward pass in eval mode; the net is left as it was.

    Args:
        x: pictures, (B, C, H, W).
    """
    outputs: list[tuple[nn.Module, Tensor]] = []

    def hear(module: nn.Module, args: object, output: object) -> None:
        if isinstance(output, Tensor) and output.requires_grad:
            outputs.append((module, output))

    leaves = [m for m in net.modules() if not [*m.children()]]
    modes = {m: m.training for m in net.modules()}
    hooks = [leaf.register_forward_hook(hear) for leaf in leaves]
    own = [p for p in net.parameters() if p.requires_grad]
    try:
        with torch.enable_grad():
            said = Tapped(net.eval(), spots, prepare)(x.clone().requires_grad_())
            target = torch.stack([said[s].float().sum() for s in spots]).sum()
            slopes = torch.autograd.grad(target, [*own, *(f for _, f in outputs)], allow_unused=True)
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes.items():
            module.training = training
    passed = {id(m) for (m, _), g in zip(outputs, slopes[len(own) :], strict=True) if g is not None}
    heard = {id(m) for m, _ in outputs}
    used = [p for p, g in zip(own, slopes, strict=False) if g is not None]
    alive = {id(p) for p in used}
    still = [
        m for m in leaves if id(m) in heard and id(m) not in passed and not any(id(p) in alive for p in m.parameters())
    ]
    return used, still
