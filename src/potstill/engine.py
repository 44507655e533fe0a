"""The loop. It sums, steps, validates, saves and resumes; it has never heard of distillation."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ParamSpec, Protocol, TypeVar

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.precision import MixedPrecision, Precision
from lightning_fabric.strategies import SingleDeviceStrategy
from lightning_fabric.wrappers import _FabricModule
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from potstill.checkpoint import load_state, rng_state, save_state, set_rng_state
from potstill.errors import InterruptedRun
from potstill.sharded import gather, load_optimizer, settle, shard
from potstill.types import Batch
from potstill.watch import Watch

TOGETHER = 20
"""Steps after which several processes ask each other whether to save or to stop."""
P = ParamSpec("P")
R = TypeVar("R")


class Batches(Protocol):
    """Data by epoch: ``data.Stream``, or anything of this form."""

    def __len__(self) -> int:
        """Steps of an epoch."""

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from step ``start`` on; always the same ones."""


@dataclass
class Stage:
    """A scheme, data, an optimizer, a number of epochs.

    Attributes:
        scheme: maps a batch to its losses, ``{name: (B,)}``; the sum of their means is minimised over its parameters.
        optimizer: makes the optimizer of the scheme.
        scheduler: makes the scheduler from the optimizer and the number of steps of an epoch, and says whether it steps
            after each ``"step"`` or each ``"epoch"``.
        validate: measures after each epoch, for example ``{"top1": 0.7}``.
        monitor: the measure by which the best epoch is chosen; higher is better.
        patience: stop after so many epochs without a better one; None: never.
        clip: the largest norm of the gradient; None: as it is.
        accumulate: parts into which a batch is cut to save memory; the gradient is that of the whole batch.
        save_best: what to keep of the best epoch.
        remark: more for the line of each epoch, for example ``{"decisions": {...}}``; asked once an epoch, by every process.
    """

    name: str
    scheme: nn.Module
    stream: Batches
    epochs: int
    optimizer: Callable[[nn.Module], Optimizer]
    scheduler: Callable[[Optimizer, int], tuple[LRScheduler, str] | None] = lambda optimizer, steps: None
    validate: Callable[[], dict[str, float]] | None = None
    monitor: str = "top1"
    patience: int | None = None
    clip: float | None = None
    accumulate: int = 1
    save_best: Callable[[], dict[str, Any]] | None = None
    remark: Callable[[], dict[str, Any]] | None = None


@dataclass
class Position:
    """Where the training stands: all that the loop needs, beside weights and optimizer, to go on as if never stopped."""

    stage: int = 0
    epoch: int = 0
    step: int = 0
    total_steps: int = 0
    lr: float = 0.0
    seconds: float = 0.0
    best: dict[str, Any] = field(default_factory=dict)
    worse: int = 0
    journal: int = 0


class Journal(Protocol):
    """Where a line is written after each epoch (see ``runs.Journal``)."""

    def write(self, row: Mapping[str, Any]) -> None:
        """Append a line."""

    def offset(self) -> int:
        """How many bytes are written."""

    def truncate(self, offset: int) -> None:
        """Forget all after ``offset`` bytes."""


def finished(steps: Generator[Any, None, R]) -> R:
    """Take all steps of a generator; what it returns."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def whole(by_step: Callable[P, Generator[Any, None, R]]) -> Callable[P, R]:
    """The function that does at once what a generator function does step by step."""

    @functools.wraps(by_step)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        return finished(by_step(*args, **kwargs))

    return run


def fit_by_step(
    stages: list[Stage],
    fabric: Fabric | None = None,
    *,
    folder: Path | None = None,
    journal: Journal | None = None,
    on_step: Callable[[Stage, Position, int], None] = lambda stage, at, steps: None,
    on_epoch: Callable[[dict[str, Any]], None] = lambda row: None,
    should_stop: Callable[[], bool] = lambda: False,
    save_every: float | Callable[[], bool] = 60.0,
    save_steps: int | None = None,
    check_every: int = 50,
    deadline: Callable[[], bool] = lambda: False,
) -> Generator[Position, None, Position]:
    """Train the stages one after the other; go on from ``folder`` where a state lies there.

    ``fit_by_step`` yields before the first step and after each one, so that somebody else may take a step; ``fit`` does not.

    Args:
        folder: where ``last.json`` and ``best.json`` and their checkpoints are kept; None: nowhere.
        save_every, save_steps: seconds (or what says whether it is time), steps between checkpoints inside a stage; one is
            written at each stage's end too.
        should_stop: asked after each step; when it says yes, the state is saved and :class:`InterruptedRun` raised.
        check_every: on an accelerator, steps between looks at whether all losses were finite (a look waits for the device;
            on a CPU every step is looked at). No checkpoint is written without a look.
        deadline: asked after each epoch; when it says yes, the stage ends there.

    Returns:
        where the training ended, with the best epoch's measures in ``best``.

    Raises:
        DivergedError: a loss was not finite: says which, when, and the likely cause. Checkpoints stay as they were.
        InterruptedRun: ``should_stop`` said yes.
    """
    fabric = fabric or Fabric(accelerator="auto", devices=1)
    last = folder / "last.json" if folder else None
    state = load_state(last) if last else None
    at = Position(**state["position"]) if state else Position()
    if state:
        for stage, saved in zip(stages, state["schemes"], strict=True):
            stage.scheme.load_state_dict(saved)
        set_rng_state(own(state, fabric)["rng"])
    if journal:
        journal.truncate(at.journal)
    clock = Clock(at.seconds)
    yield from clock.away(at)

    while at.stage < len(stages):
        stage, steps = stages[at.stage], len(stages[at.stage].stream)
        scheme = shard(stage.scheme, fabric)  # itself; with FSDP a copy, of which each process has a part
        raw = stage.optimizer(scheme)
        net, optimizer = fabric.setup(scheme, raw)
        rescale(fabric)
        lean = alone(fabric)
        scheduler, per = stage.scheduler(raw, steps) or (None, "")
        watch = Watch(fabric, check_every, folder)
        if state and state["optimizer"]:  # after the set-up: an optimizer's state follows its parameters to the device
            load_optimizer(raw, state["optimizer"])
            if scheduler:
                scheduler.load_state_dict(state["scheduler"])
            fabric.strategy.precision.load_state_dict(state["precision"])
            mine = own(state, fabric)
            watch.restore(mine["sums"], mine["seen"], at.total_steps)
            set_rng_state(mine["rng"])  # what the set-up may have drawn is given back
        state = None

        def save(between_stages: bool = False) -> None:
            watch.look(net)  # noqa: B023
            at.seconds = clock.seconds()
            each = gathered({"rng": rng_state(), "sums": watch.so_far(), "seen": watch.seen}, fabric)  # noqa: B023
            settle(scheme, stage.scheme)  # noqa: B023
            optim = None if between_stages else gather(raw.state_dict(), fabric.is_global_zero)  # noqa: B023
            at.journal = journal.offset() if journal else 0
            clock.saved()
            if last and fabric.is_global_zero:
                content: dict[str, Any] = {
                    "position": vars(at),
                    "schemes": [s.scheme.state_dict() for s in stages],
                    "processes": each,
                }
                content["optimizer"] = optim
                content["scheduler"] = scheduler.state_dict() if scheduler else {}  # noqa: B023
                content["precision"] = fabric.strategy.precision.state_dict()
                save_state(last, content)

        while at.epoch < stage.epochs and not (stage.patience and at.worse >= stage.patience):
            net.train()
            if at.step == 0:
                at.lr = raw.param_groups[0]["lr"]
            for batch in stage.stream.epoch(at.epoch, start=at.step):
                batch = batch._replace(progress=(at.epoch * steps + at.step) / (stage.epochs * steps))
                names, means = backward(fabric, scheme if lean else net, batch, stage.accumulate)
                watch.add(names, means, batch, scheme)
                if stage.clip:
                    fabric.clip_gradients(net, optimizer, max_norm=stage.clip)
                (raw if lean else optimizer).step()
                raw.zero_grad()
                if scheduler and per == "step":
                    scheduler.step()
                at.step, at.total_steps = at.step + 1, at.total_steps + 1
                on_step(stage, at, steps)
                due, stop = agreed(fabric, at.total_steps, lambda: (clock.due(save_every), should_stop()))
                if at.step < steps and (due or (save_steps and at.total_steps % save_steps == 0)):
                    save()
                if stop:
                    save()
                    raise InterruptedRun(f"stopped at step {at.total_steps} (epoch {at.epoch + 1}); the state is saved")
                yield from clock.away(at)

            links = watch.close_epoch(scheme)
            if scheduler and per == "epoch":
                scheduler.step()
            settle(scheme, stage.scheme)
            measures = fabric.broadcast(stage.validate()) if stage.validate else {}
            at.epoch, at.step = at.epoch + 1, 0
            row = {
                "stage": stage.name,
                "epoch": sum(s.epochs for s in stages[: at.stage]) + at.epoch,
                "step": at.total_steps,
                "seconds": round(clock.seconds(), 3),
                "lr": at.lr,
                "train": {"loss": sum(links.values()), "links": links},
                "val": measures,
                **(stage.remark() if stage.remark else {}),
            }
            at.worse += 1
            if not measures or measures[stage.monitor] > at.best.get("val", {}).get(stage.monitor, -1.0):
                at.best, at.worse = {"stage": stage.name, "epoch": row["epoch"], "val": measures}, 0
                if folder and stage.save_best and fabric.is_global_zero:
                    save_state(folder / "best.json", {**at.best, **stage.save_best()})
            if journal:
                journal.write(row)
            on_epoch(row)
            if fabric.broadcast(deadline()):  # one process decides for all
                break
            if at.epoch < stage.epochs and (save_steps or fabric.broadcast(clock.due(save_every))):
                save()

        at.stage, at.epoch, at.step, at.worse = at.stage + 1, 0, 0, 0
        at.best = {} if at.stage < len(stages) else at.best  # the measures of two stages are not compared
        save(between_stages=True)
    return at


fit = whole(fit_by_step)


def agreed(fabric: Fabric, step: int, ask: Callable[[], tuple[bool, bool]]) -> tuple[bool, bool]:
    """The answers to two questions, the same in every process: yes where one of them says so. To agree takes a message, so
    several processes do it every ``TOGETHER`` steps only."""
    if fabric.world_size == 1:
        return ask()
    if step % TOGETHER:
        return False, False
    said = torch.tensor(ask(), dtype=torch.float32, device=fabric.device)
    first, second = fabric.all_reduce(said, reduce_op="sum").tolist()  # type: ignore[union-attr]
    return first > 0, second > 0


def gathered(facts: dict[str, Any], fabric: Fabric) -> list[dict[str, Any]]:
    """What each process has of its own, by rank."""
    each: list[Any] = [facts]
    if fabric.world_size > 1:
        each = [None] * fabric.world_size
        torch.distributed.all_gather_object(each, facts)
    return each


def own(state: Mapping[str, Any], fabric: Fabric) -> dict[str, Any]:
    """What a checkpoint has of this process. If their number has changed, the first one takes the sums of all."""
    each, rank = state["processes"], fabric.global_rank
    if len(each) == fabric.world_size:
        return dict(each[rank])
    total = {name: sum(e["sums"][name] for e in each) * (rank == 0) for name in each[0]["sums"]}
    return {"rng": each[0]["rng"], "sums": total, "seen": sum(e["seen"] for e in each) // fabric.world_size}


def rescale(fabric: Fabric) -> None:
    """Begin to scale gradients anew, where half precision has that: what an earlier training came to is not this one's."""
    precision = fabric.strategy.precision
    if isinstance(precision, MixedPrecision) and precision.scaler is not None:
        precision.scaler = torch.amp.GradScaler(precision.device)


def alone(fabric: Fabric) -> bool:
    """Whether there is one process and no scaling of gradients. What Fabric's wrappers do in a step is then the forward context
    of the precision, and some 100 us of looking for more to do."""
    strategy = fabric.strategy
    simple = type(strategy.precision) is Precision or (
        type(strategy.precision) is MixedPrecision and strategy.precision.scaler is None
    )
    return type(strategy) is SingleDeviceStrategy and simple


def backward(fabric: Fabric, net: nn.Module, batch: Batch, parts: int) -> tuple[list[str], Tensor]:
    """Add the gradient of the sum of all mean losses; the names of the links and their means, (links,).

    Args:
        net: the scheme as Fabric wrapped it; or itself, where :func:`alone` allows it.
    """
    size, means, names = len(batch.ids), [], []
    pieces, wrapped = split(batch, parts), isinstance(net, _FabricModule)
    for i, part in enumerate(pieces):
        later = i < len(pieces) - 1
        with fabric.no_backward_sync(net, later) if isinstance(net, _FabricModule) else nullcontext():
            with nullcontext() if wrapped else fabric.strategy.precision.forward_context():
                losses: dict[str, Tensor] = net(part)
            names = list(losses)
            mean = torch.stack([loss.float().mean() for loss in losses.values()])
            means.append(mean if len(pieces) == 1 else mean * (len(part.ids) / size))
            loss = means[-1].sum()
            fabric.backward(loss) if wrapped else loss.backward()
    return names, means[0].detach() if len(means) == 1 else torch.stack(means).detach().sum(0)


def split(batch: Batch, parts: int) -> list[Batch]:
    """The batch in ``parts`` nearly equal parts (fewer where it is too small)."""
    if parts == 1:
        return [batch]
    parts = min(parts, len(batch.ids))
    x, y, ids, views = (f.tensor_split(parts) for f in (batch.x, batch.y, batch.ids, batch.views))
    targets = [None] * parts if batch.targets is None else batch.targets.tensor_split(parts)
    second = [None] * parts if batch.second is None else batch.second.tensor_split(parts)
    return [Batch(x[i], y[i], ids[i], views[i], targets[i], batch.progress, second[i]) for i in range(parts)]


class Clock:
    """Seconds of training, over interruptions, and since the last checkpoint."""

    def __init__(self, earlier: float) -> None:
        self.earlier, self.began = earlier, time.monotonic()
        self.save = self.began

    def seconds(self) -> float:
        return self.earlier + time.monotonic() - self.began

    def saved(self) -> None:
        self.save = time.monotonic()

    def due(self, every: float | Callable[[], bool]) -> bool:
        return every() if callable(every) else time.monotonic() - self.save > every

    def away(self, at: Position) -> Iterator[Position]:
        """Say where the training is, and do not count the time until it goes on."""
        left = time.monotonic()
        yield at
        self.began += time.monotonic() - left
