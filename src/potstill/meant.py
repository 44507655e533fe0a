"""What a configuration means: its losses, augmentations, optimizer and schedule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from potstill.config.schema import Config
from potstill.config.sections import ModelConfig
from potstill.data.arrays import Splits
from potstill.data.views import Views
from potstill.errors import ConfigError
from potstill.methods import PRESETS
from potstill.models.spec import parse
from potstill.optim import make_optimizer, make_scheduler, takes
from potstill.schemes.scheme import Scheme
from potstill.schemes.spot_adaptive import SpotAdaptive

ALONE: dict[str, dict[str, Any]] = {"ce": {"use": "ce", "weight": 1.0}}
SECOND_SEED = 1  # other than that of the first view, or both would be cropped alike


def losses_of(config: Config) -> dict[str, dict[str, Any]]:
    """The losses of a configuration in the form that ``methods.build`` reads."""
    return {
        name: {
            "use": loss.use,
            "weight": loss.weight if isinstance(loss.weight, float | int) else loss.weight.model_dump(by_alias=True),
            "at": loss.at,
            "before": loss.before and loss.before.model_dump(),
            **loss.settings,
        }
        for name, loss in config.losses.items()
    }


def views_of(config: Config, splits: Splits) -> Views:
    """The augmentation: what the configuration says, else what suits the data."""
    a = config.data.augment
    if a.preset not in ("auto", "none"):
        raise ConfigError(f"data.augment.preset must be auto or none, got {a.preset!r}")
    base = Views.auto(splits.source, splits.shape) if a.preset == "auto" else Views()
    given = {k: v for k, v in a.model_dump(exclude={"preset"}).items() if v is not None}
    return Views(**{**{k: getattr(base, k) for k in ("pad", "flip", "colour", "erase", "mixup", "cutmix")}, **given})


def second_of(config: Config, splits: Splits) -> Views | None:
    """The augmentation of the second view of each picture: as configured, else as a method of the run was published."""
    given = config.data.second
    if config.kind != "distill" or (given is not None and not given.on):
        return None
    wanted = [p.second for loss in config.losses.values() if (p := PRESETS.get(loss.use)) and p.second]
    if given is None and not wanted:
        return None
    base = views_of(config, splits)
    own = {k: v for k, v in given.model_dump(exclude={"preset", "on"}).items() if v is not None} if given else {}
    published = wanted[0] if wanted else {}
    return Views(**{"pad": base.pad, "flip": base.flip, **published, **own, "seed": SECOND_SEED})


def check_names(config: Config) -> None:
    """Refuse what can be refused before anything is loaded: an optimizer or schedule that torch does not have."""
    optimizer_of(config)
    make_scheduler(config.schedule.name, config.epochs, config.schedule.warmup, **config.schedule.args)


def optimizer_of(config: Config, rate: float = 1.0) -> Callable[[nn.Module], torch.optim.Optimizer]:
    """What makes the optimizer as configured, at ``rate`` times its learning rate, when a stage begins: what that stage's scheme
    trains has gradients then. Fused where torch can, except for float16, whose gradients are unscaled before clipping,
    and nets in parts, for which not all kernels are there."""
    o = config.optim
    fused = config.precision != "16" and config.strategy != "fsdp" and "fused" not in o.args and takes(o.name, "fused")
    more = {"fused": True, **o.args} if fused else o.args
    make = make_optimizer(o.name, lr=o.lr * rate, weight_decay=o.weight_decay, momentum=o.momentum, **more)
    return lambda scheme: make(scheme.begin() if isinstance(scheme, Scheme | SpotAdaptive) else scheme)


def untrained(spec: ModelConfig | None) -> bool:
    """Whether a teacher's name means a net without weights: one of the zoo or of the user's code, and no weights given."""
    return spec is not None and spec.weights is None and parse(spec.model).source in ("zoo", "file", "module")
