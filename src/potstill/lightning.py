"""A scheme for those who live in Lightning's ``Trainer``. Needs the extra ``potstill[lightning]``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

try:
    from lightning import LightningModule
except ImportError as error:  # pragma: no cover
    from potstill.errors import MachineError

    raise MachineError("the Lightning adapter needs lightning", hint='pip install "potstill[lightning]"') from error


class Distill(LightningModule):
    """A scheme as a LightningModule: the sum of the mean losses is minimised, each link is logged by its name.

    The frozen teacher stays outside the module tree, so ``Trainer`` neither trains, saves nor wraps it, and ``fit`` puts the
    student in training mode at its start (``Trainer`` itself no longer does).

    Args:
        scheme: maps a :class:`potstill.types.Batch` to ``{name: (B,) loss}``.
        optimizer: makes the optimizer from the scheme's parameters.
    """

    def __init__(self, scheme: nn.Module, optimizer: Callable[[Any], Optimizer]) -> None:
        super().__init__()
        self.scheme, self.make_optimizer = scheme, optimizer

    def on_fit_start(self) -> None:
        self.train()

    def training_step(self, batch: Any, index: int) -> Tensor:
        means = {name: loss.mean() for name, loss in self.scheme(batch).items()}
        self.log_dict(means)
        return torch.stack([*means.values()]).sum()

    def configure_optimizers(self) -> Optimizer:
        return self.make_optimizer([p for p in self.scheme.parameters() if p.requires_grad])
