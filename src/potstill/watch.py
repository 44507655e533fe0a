"""Adding up losses on the device, and noticing the first one that is not finite, without waiting for the device each step."""

from __future__ import annotations

import io
import math
from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from potstill.checkpoint import rng_state
from potstill.errors import DivergedError
from potstill.files import write_atomically
from potstill.sharded import local
from potstill.types import Batch

HUGE = 1e4  # no weight of a net that learns is as large; not finite is not smaller


class Watch:
    """The running sums of an epoch's losses, by link.

    Args:
        fabric: knows the device and the other processes.
        check_every: on an accelerator, steps between looks; on a CPU a look costs nothing and each step has one.
        folder: where ``nan.pt`` is written when a loss is not finite.
    """

    def __init__(self, fabric: Fabric, check_every: int, folder: Path | None) -> None:
        self.fabric, self.folder = fabric, folder
        self.every = 1 if fabric.device.type == "cpu" else check_every
        self.dtype = torch.float32 if fabric.device.type == "mps" else torch.float64
        self.names: list[str] = []
        self.sums: Tensor | None = None
        self.bad: Tensor | None = None
        self.seen, self.step = 0, 0

    def restore(self, sums: dict[str, float], seen: int, step: int) -> None:
        """Go on inside an epoch."""
        if sums:
            self.names, self.sums = (
                list(sums),
                torch.tensor([*sums.values()], dtype=self.dtype, device=self.fabric.device),
            )
        self.seen, self.step = seen, step

    def add(self, names: list[str], means: Tensor, batch: Batch, net: nn.Module) -> None:
        """Count the mean losses, (links,), of a batch. Called before the optimizer steps.

        Raises:
            DivergedError: a loss is not finite (on an accelerator: was, since the last look).
        """
        self.names, means = names, means.detach()
        if self.sums is None:
            self.sums = torch.zeros(len(names), dtype=self.dtype, device=means.device)
        self.sums.add_(means, alpha=len(batch.ids))
        self.seen += len(batch.ids)
        self.step += 1
        if self.every > 1:
            wrong = ~torch.isfinite(means)
            if self.bad is None:
                self.bad = torch.full((len(names),), -1, device=means.device)
            self.bad = torch.where((self.bad < 0) & wrong, self.step, self.bad)
        elif not all(map(math.isfinite, means.tolist())):  # one call, not three
            self.bad = torch.where(torch.isfinite(means), -1, self.step)
        if self.step % self.every == 0:
            self.look(net, batch)

    def look(self, net: nn.Module, batch: Batch | None = None) -> None:
        """Raise :class:`DivergedError` if any loss was not finite up to now."""
        if self.bad is None:
            return
        steps = self.bad.tolist()
        if max(steps) < 0:
            return
        first = min(s for s in steps if s >= 0)
        links = [name for name, s in zip(self.names, steps, strict=True) if s == first]
        if batch is not None and not bool(torch.isfinite(batch.x).all()):
            why, hint = "the pictures of the batch are not finite", "look at the data: potstill check"
        elif any(not bool((local(p).abs() < HUGE).all()) for p in net.parameters()):
            why, hint = (
                "the weights have exploded: the steps were too large",
                "optim.lr=... ten times smaller, or clip=5",
            )
        else:
            why, hint = (
                "the weights are still finite: this loss overflowed",
                f"a smaller losses.{links[0]}.weight, precision=32, or clip=5",
            )
        if self.folder is not None and batch is not None and self.fabric.is_global_zero:
            buffer, weights = io.BytesIO(), {name: local(value) for name, value in net.state_dict().items()}
            torch.save({"batch": list(batch), "weights": weights, "rng": rng_state(), "step": first}, buffer)
            write_atomically(self.folder / "nan.pt", buffer.getvalue())
        raise DivergedError(
            f"loss {' and '.join(map(repr, links))} was not finite at step {first}",
            why=f"{why}; the last checkpoint stays",
            hint=hint,
        )

    def so_far(self) -> dict[str, float]:
        """The sums by link, for a checkpoint."""
        return {} if self.sums is None else dict(zip(self.names, self.sums.tolist(), strict=True))

    def close_epoch(self, net: nn.Module) -> dict[str, float]:
        """The mean of each link's loss over the samples of the epoch, over all processes; the sums start again at 0."""
        self.look(net)
        if self.sums is None:
            return {}
        sums, seen = self.sums, float(self.seen)
        if self.fabric.world_size > 1:
            sums = self.fabric.all_reduce(sums, reduce_op="sum")  # type: ignore[assignment]
            seen *= self.fabric.world_size
        self.sums, self.seen = None, 0
        return dict(zip(self.names, (sums / seen).tolist(), strict=True))
