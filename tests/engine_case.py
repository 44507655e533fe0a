"""A small real training for the tests of the engine: digits, dropout, BatchNorm, a teacher, an adapter."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from potstill.engine import Stage
from potstill.losses import CE, KD, FitNet
from potstill.optim import make_optimizer, make_scheduler
from potstill.schemes import Link, offline
from potstill.types import Batch


@functools.cache
def digits() -> tuple[Tensor, Tensor]:
    data = load_digits()
    return torch.tensor(data.images[:, None] / 16, dtype=torch.float32), torch.tensor(data.target)


class Digits:
    """The first ``n`` digits in an order that is a function of the epoch."""

    def __init__(self, n: int = 160, size: int = 32, share: tuple[int, int] = (0, 1)) -> None:
        self.n, self.size, self.share = n, size, share

    def __len__(self) -> int:
        return self.n // self.size

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        order = torch.randperm(self.n, generator=torch.Generator().manual_seed(epoch))
        x, y = digits()
        rank, world = self.share
        for i in range(start, len(self)):
            ids = order[i * self.size : (i + 1) * self.size].tensor_split(world)[rank]
            yield Batch(x[ids], y[ids], ids, torch.full_like(ids, epoch))


def net(width: int, dropout: float = 0.2, norm: bool = True) -> nn.Module:
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width) if norm else nn.Identity(), nn.ReLU()),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(16 * width, 10),
    )


def stage(
    epochs: int = 3, seed: int = 0, dropout: float = 0.2, norm: bool = True, name: str = "distil", **options: object
) -> Stage:
    torch.manual_seed(seed)
    student, teacher = net(4, dropout, norm), net(8)
    links = [Link(CE(), 0.5, teacher=None), Link(KD(), 0.02), Link(FitNet((4, 8, 8), (8, 8, 8)), 1.0, at="0")]
    if not norm:
        links = links[:2]
    scheme = offline(student, teacher, links)

    def validate() -> dict[str, float]:
        x, y = digits()
        with torch.no_grad():
            logits = student.eval()(x[1000:1200])
        return {"top1": float((logits.argmax(1) == y[1000:1200]).float().mean())}

    return Stage(
        name=name,
        scheme=scheme,
        stream=options.pop("stream", None) or Digits(),  # type: ignore[arg-type]
        epochs=epochs,
        optimizer=make_optimizer("sgd", lr=options.pop("lr", 0.1), momentum=0.9),  # type: ignore[arg-type]
        scheduler=make_scheduler("cosine", epochs, warmup=0.5),
        validate=validate,
        save_best=lambda: {"student": student.state_dict()},
        **options,  # type: ignore[arg-type]
    )


def weights(s: Stage) -> Tensor:
    return torch.cat([v.flatten().double() for v in s.scheme.state_dict().values()])
