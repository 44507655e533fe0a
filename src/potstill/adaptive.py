"""Spot-adaptive distillation in a run: round the scheme as configured, and what its policy thinks of the pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file
from torch import Tensor

from potstill.config.sections import SpotsConfig, WeightSchedule
from potstill.data.arrays import Data
from potstill.data.stream import Stream
from potstill.methods.build import Built, make_weight
from potstill.schemes.scheme import Scheme
from potstill.schemes.spot_adaptive import SpotAdaptive
from potstill.schemes.spots import spot_adaptive

RUN = {"rule", "teacher", "authors", "policy_lr", "policy_decay"}
SHOWN, LOOKED_AT = 24, 20_000
"""Classes of which pictures are shown; pictures that the policy is asked about."""


def adaptive(built: Built, example: Tensor, config: SpotsConfig) -> Built:
    """The same, with the spots decided for each sample as configured.

    Raises:
        ModelError: a net cannot be cut at its spots.
    """
    given = {k: v for k in SpotsConfig.model_fields if k not in RUN and (v := getattr(config, k)) is not None}
    options: dict[str, Any] = {
        k: make_weight(v.model_dump(by_alias=True)) if isinstance(v, WeightSchedule) else v for k, v in given.items()
    }
    assert isinstance(built.scheme, Scheme)
    scheme = spot_adaptive(
        built.scheme, example, rule=config.rule, teacher=config.teacher, authors=config.authors, **options
    )
    built.scheme = scheme
    own = sum(p.numel() for p in scheme.own_parameters())
    built.notices.append(
        f"spots: {config.rule} at {', '.join(scheme.names)}"
        + (f"; policy and adaptation layers have {own:,} parameters, thrown away after the training" if own else "")
    )
    whole = [name for name, split in scheme.per_spot.items() if not split]
    if whole:
        built.notices.append(
            f"spots: {', '.join(whole)} cannot be weighed spot by spot: one decision, that of its last"
        )
    return built


def decided(scheme: SpotAdaptive, data: Data, device: torch.device, path: Path) -> None:
    """Write, of the classes whose pictures differ most, the picture that is distilled least and the one that is most.

    Pairs of rows: ``images`` (K, C, H, W) uint8, ``ids``, ``y``, and ``p`` (K,), the mean probability over the spots.
    """
    known = np.flatnonzero(np.asarray(data.labels) >= 0)[:LOOKED_AT]
    some = data.subset(known)
    ids, chances = scheme.chances(Stream(some, 256, shuffle=False, device=device).epoch(0))
    p, y = chances.mean(1).numpy(), np.asarray(some.labels)
    pairs = []
    for c in np.unique(y):
        rows = np.flatnonzero(y == c)
        pairs.append((rows[p[rows].argmin()], rows[p[rows].argmax()]))
    pairs.sort(key=lambda pair: p[pair[0]] - p[pair[1]])
    at = np.array(pairs[:SHOWN], dtype=np.int64).reshape(-1)
    images = np.asarray(some.pictures(at))
    if images.dtype != np.uint8:
        images = (255 * images.clip(0, 1)).round().astype(np.uint8)
    found = {"images": np.ascontiguousarray(images), "ids": ids.numpy()[at], "y": y[at].astype(np.int64), "p": p[at]}
    save_file(found, path)
