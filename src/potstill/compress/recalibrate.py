"""BatchNorm statistics measured anew: what a cut net needs first, and the plain baseline of every recovery."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from potstill.compress.stage import Work
from potstill.data.stream import Stream
from potstill.models.preprocess import Preprocess
from potstill.ready import Ready
from potstill.taps import Tapped


def recalibrate(module: nn.Module, pictures: Iterable[Tensor], preprocess: Preprocess | None = None) -> int:
    """Replace the running mean and variance of every BatchNorm by the mean of those of some batches, in place.

    Everything else is in eval mode; no gradient, no label and no weight is touched.

    Args:
        pictures: batches (B, C, H, W) in [0, 1]; a few thousand pictures are enough.
        preprocess: what stands in front of the net.

    Returns:
        how many BatchNorms there are; where there is none, nothing is done.
    """
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    if not norms:
        return 0
    modes = [(m, m.training) for m in module.modules()]
    momenta = [m.momentum for m in norms]
    tapped = Tapped(module, (), preprocess).eval()
    like = next(module.parameters())
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum, norm.training = None, True  # None: the mean over all batches
    try:
        with torch.no_grad():
            for x in pictures:
                tapped(x.to(like.device))
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for m, mode in modes:
            m.training = mode
    return len(norms)


def plain_batches(ready: Ready, batches: int, size: int = 128) -> Iterable[Tensor]:
    """Training pictures as they are, without augmentation, in an order of their own."""
    stream = Stream(ready.splits.train, size, seed=0, device=ready.fabric.device)
    return (batch.x for batch in islice(stream.epoch(0), batches))


@dataclass(frozen=True)
class Recalibrate:
    """Measure the BatchNorm statistics of the net anew.

    Attributes:
        batches: of 128 training pictures; 20 brought back most of what a cut took in our measurements.
    """

    batches: int = 20
    kind = "recalibrate"
    resumes = False

    def run(self, work: Work) -> dict[str, Any]:
        norms = recalibrate(work.net.module, plain_batches(work.ready, self.batches), work.net.preprocess)
        notices = [] if norms else ["the net has no BatchNorm: there was nothing to measure anew"]
        return {**work.measured(), **work.costs(), "norms": norms, "notices": notices}
