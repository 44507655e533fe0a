"""Optimizers and schedules by name, their arguments checked against the class before anything runs."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer, lr_scheduler
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from potstill.errors import ConfigError, did_you_mean

OPTIMIZERS: dict[str, type[Optimizer]] = {
    name.lower(): cls
    for name, cls in vars(torch.optim).items()
    if isinstance(cls, type) and issubclass(cls, Optimizer) and cls is not Optimizer
}
SCHEDULERS: dict[str, type[LRScheduler]] = {
    name.lower(): cls
    for name, cls in vars(lr_scheduler).items()
    if isinstance(cls, type) and issubclass(cls, LRScheduler) and not name.startswith("_") and cls is not LRScheduler
}


def make_optimizer(name: str, **arguments: Any) -> Callable[[nn.Module], Optimizer]:
    """What makes the optimizer of a scheme: any class of ``torch.optim`` by its name in any case.

    Raises:
        ConfigError: no such optimizer, or it has no such argument.
    """
    cls = OPTIMIZERS.get(name.lower())
    if cls is None:
        known = ", ".join(sorted(OPTIMIZERS))
        raise ConfigError(f"optim.name: no optimizer {name!r}.{did_you_mean(name, OPTIMIZERS)} Known: {known}.")
    arguments = checked(cls, arguments, "optim", leave_out=("params",))

    def make(scheme: nn.Module) -> Optimizer:
        # One parameter may sit in two places (a shared layer); an optimizer wants it once.
        return cls([p for p in scheme.parameters() if p.requires_grad], **arguments)

    return make


def takes(name: str, argument: str) -> bool:
    """Whether the optimizer of this name has such an argument."""
    return name.lower() in OPTIMIZERS and argument in inspect.signature(OPTIMIZERS[name.lower()]).parameters


def make_scheduler(
    name: str, epochs: int, warmup: float = 0.0, **arguments: Any
) -> Callable[[Optimizer, int], tuple[LRScheduler, str] | None]:
    """What makes the schedule of the learning rate.

    ``cosine`` and ``linear`` go to ``eta_min`` (default 0) over the training, step by step; ``multistep`` multiplies by
    ``gamma`` (default 0.1) after each of ``milestones`` (epochs); ``constant`` stays. Before them, the rate grows linearly
    for ``warmup`` epochs. Any other name is a class of ``torch.optim.lr_scheduler``, stepped after each epoch.

    Raises:
        ConfigError: no such schedule, or it has no such argument.
    """
    if name in SHAPES:
        shape = SHAPES[name]
        known = inspect.signature(shape).parameters
        for key in arguments:
            if key not in known or key == "share":
                names = ", ".join(k for k in known if k not in ("epoch", "share")) or "none"
                raise ConfigError(
                    f"schedule.{key}: {name} has no such argument.{did_you_mean(key, known)} Known: {names}."
                )

        def make(optimizer: Optimizer, steps: int) -> tuple[LRScheduler, str]:
            base = optimizer.param_groups[0]["lr"]

            def factor(step: int) -> float:
                epoch = step / steps
                if epoch < warmup:
                    return (step + 1) / (warmup * steps + 1)
                share = (epoch - warmup) / max(epochs - warmup, 1e-9)
                given = {"base": base} if "base" in known else {}
                return shape(epoch=epoch, share=min(share, 1.0), **given, **arguments)

            return LambdaLR(optimizer, factor), "step"

        return make
    cls = SCHEDULERS.get(name.lower())
    if cls is None:
        known_names = [*SHAPES, *(c.__name__ for c in SCHEDULERS.values())]
        raise ConfigError(
            f"schedule.name: no schedule {name!r}.{did_you_mean(name, known_names)} Known: {', '.join(SHAPES)}, "
            "or a class of torch.optim.lr_scheduler."
        )
    if warmup:
        raise ConfigError(f"schedule.warmup works with {', '.join(SHAPES)}, not with {name}")
    arguments = checked(cls, arguments, "schedule", leave_out=("optimizer",))
    return lambda optimizer, steps: (cls(optimizer, **arguments), "epoch")


def _cosine(epoch: float, share: float, base: float, eta_min: float = 0.0) -> float:
    return (eta_min + (base - eta_min) * (1 + math.cos(math.pi * share)) / 2) / base


def _linear(epoch: float, share: float, base: float, eta_min: float = 0.0) -> float:
    return (base + (eta_min - base) * share) / base


def _multistep(epoch: float, share: float, milestones: tuple[float, ...] = (), gamma: float = 0.1) -> float:
    return gamma ** sum(epoch >= m for m in milestones)


def _constant(epoch: float, share: float) -> float:
    return 1.0


SHAPES: dict[str, Callable[..., float]] = {
    "cosine": _cosine,
    "linear": _linear,
    "multistep": _multistep,
    "constant": _constant,
}


def checked(cls: type, arguments: Mapping[str, Any], section: str, leave_out: tuple[str, ...]) -> dict[str, Any]:
    """The arguments, if the constructor of ``cls`` takes them all; an argument that is None is left out."""
    known = [p for p in inspect.signature(cls).parameters if p not in leave_out]
    given = {k: v for k, v in arguments.items() if v is not None}
    for key in given:
        if key not in known:
            raise ConfigError(
                f"{section}.{key}: {cls.__name__} has no such argument.{did_you_mean(key, known)} Known: {', '.join(known)}."
            )
    return given
