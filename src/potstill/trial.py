"""One training: a net, a seed, losses; from its first step to its measures on the test data."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from safetensors.numpy import save_file
from torch import Tensor

from potstill.adaptive import decided
from potstill.chain import chain, extra_epochs
from potstill.checkpoint import load_state
from potstill.config.schema import Config
from potstill.config.sections import seconds
from potstill.console import Console
from potstill.deliver import Delivery
from potstill.engine import Batches, Position, Stage, fit_by_step, whole
from potstill.files import write_json
from potstill.keep import keep
from potstill.models.net import Net
from potstill.models.resolve import save_student
from potstill.pace import compile_for
from potstill.ready import Ready, seed_everything
from potstill.runs import Journal
from potstill.schemes.spot_adaptive import SpotAdaptive
from potstill.sharded import seat
from potstill.taps import Tapped
from potstill.together import Group


class Stop:
    """Whether somebody asked the run to stop: the first Ctrl-C or SIGTERM asks, a second Ctrl-C stops at once."""

    elsewhere: ClassVar[list[Stop]] = []
    """Those that listen outside of the main thread, where no signal comes: whoever has word of another kind asks them."""

    def __init__(self) -> None:
        self.asked = False

    def __call__(self) -> bool:
        return self.asked

    @contextmanager
    def listening(self) -> Iterator[Stop]:
        """Listen to the signals inside the block; outside the main thread to who asks ``Stop.elsewhere``."""
        if threading.current_thread() is not threading.main_thread():
            Stop.elsewhere.append(self)
            try:
                yield self
            finally:
                Stop.elsewhere.remove(self)
            return

        def ask(number: int, frame: Any) -> None:
            if self.asked and number == signal.SIGINT:
                raise KeyboardInterrupt
            self.asked = True

        before = {s: signal.signal(s, ask) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def trial_by_step(
    ready: Ready,
    role: str,
    seed: int,
    folder: Path,
    *,
    net: Callable[[int], Net],
    losses: Mapping[str, dict[str, Any]],
    teacher: Net | None,
    console: Console,
    stop: Callable[[], bool],
    epochs: int | None = None,
    stop_after: int | None = None,
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
    group: Group | None = None,
) -> Generator[Position, None, dict[str, Any]]:
    """Train a net and measure it; go on where an interrupted trial stopped, do nothing where it is done.

    ``trial_by_step`` yields before the first step and after each one, ``run_trial`` does not.

    Args:
        role: ``student``, ``control`` or ``teacher``: what it is for.
        net: makes the net of a seed.
        epochs: by default those of the run.
        stop_after: end after so many of them, and by nothing else: a control has the steps that its student had.
        on_epoch: told each epoch's line of the journal; what it raises ends the trial.
        group: the students who are trained side by side with this one.

    Returns:
        what ``result.json`` says (see docs/design.md).
    """
    fabric, config = ready.fabric, ready.config
    if fabric.broadcast((folder / "result.json").exists()):
        return dict(json.loads((folder / "result.json").read_text("utf-8")))
    epochs = epochs or config.epochs
    folder.mkdir(parents=True, exist_ok=True)
    made = net(seed)
    built = ready.build(made, dict(losses), teacher)
    stream: Batches = group or ready.stream(seed, labels_only=teacher is None)
    device = fabric.device
    schemes = [*(first.scheme for first in built.before), built.scheme]
    for scheme in schemes:
        ready.placed(scheme)
    tapped = Tapped(made.module, (), made.preprocess).to(seat(fabric))
    delivery = Delivery(made, built)
    caches, said = keep(ready, schemes, teacher)
    for line in said + compile_for(ready, schemes, stream, epochs, folder):
        console.say(f"  {line}")
    if group:
        group.join(schemes)
    journal = Journal(folder / "metrics.jsonl")
    writer = tensorboard(config, folder) if fabric.is_global_zero else None

    def validate() -> dict[str, float]:
        return ready.measure(delivery.refresh(), "val")[0]

    def each_epoch(row: dict[str, Any]) -> None:
        console.epoch(row)
        if writer is not None:
            for name, value in row["train"]["links"].items():
                writer.add_scalar(f"train/{name}", value, row["epoch"])
            for name, value in row["val"].items():
                writer.add_scalar(f"val/{name}", value, row["epoch"])
        if on_epoch is not None:
            on_epoch(row)

    stages = chain(
        ready,
        built,
        stream,
        {"student": "distil", "control": "alone", "teacher": "teach"}[role]
        if teacher or role != "student"
        else "train",
        epochs,
        validate=validate,
        save_best=lambda: {"student": delivery.net.module.state_dict()},
        patience=None if stop_after else config.early_stop,
    )
    extra, total = extra_epochs(built, epochs), sum(stage.epochs for stage in stages)
    began, limit = time.monotonic(), seconds(config.time_limit) if config.time_limit else float("inf")
    seed_everything(seed + 1_000_003)  # dropout and the like; the net's weights are drawn already
    titles = {"student": "student" if teacher else "training", "control": "student alone", "teacher": "teacher"}
    console.begin(f"{titles[role]}, seed {seed}", total)
    try:
        at = yield from fit_by_step(
            stages,
            fabric,
            folder=folder / "state",
            journal=journal if fabric.is_global_zero else None,
            on_step=lambda stage, at, steps: console.step(_gone(stages, at) + at.epoch, at.step, steps),
            on_epoch=each_epoch,
            should_stop=stop,
            save_every=group.turns.due if group else config.save_every,
            save_steps=config.save_steps,
            deadline=(lambda: len(journal.rows()) >= stop_after)
            if stop_after
            else (lambda: time.monotonic() - began > limit),
        )
    finally:
        console.end()
        for cached in caches:
            cached.store.close()
        if writer is not None:
            writer.close()
    fabric.barrier()
    if not fabric.is_global_zero:
        tapped.cpu()
        fabric.barrier()
        return dict(json.loads((folder / "result.json").read_text("utf-8")))
    if len(journal.rows()) < total:
        console.say(
            f"  ended after {len(journal.rows())} of {total} epochs (early_stop, time_limit, or as its student)"
        )
    if isinstance(built.scheme, SpotAdaptive):
        decided(built.scheme, ready.splits.train, device, folder / "decided.safetensors")
    result = {
        "role": role,
        "seed": seed,
        "epochs": journal.rows()[-1]["epoch"] - extra,
        "seconds": round(at.seconds, 2),
        **measured(ready, delivery.refresh(), at, folder, journal),
    }
    tapped.cpu()
    delivery.net.in_channels = ready.splits.shape[0]
    save_student(folder, delivery.net, size=ready.splits.shape[1:], classes=list(ready.splits.classes))
    write_json(folder / "result.json", result)
    fabric.barrier()
    return result


run_trial = whole(trial_by_step)


def _gone(stages: list[Stage], at: Position) -> int:
    """Epochs of the stages that are over."""
    return sum(stage.epochs for stage in stages[: at.stage])


def measured(ready: Ready, net: Net, at: Position, folder: Path, journal: Journal) -> dict[str, Any]:
    """The net on the test data after its last epoch and with the weights of its best; it is left with the best ones."""
    rows = journal.rows()
    test, logits = ready.measure(net, "test")
    save_logits(folder / "test.logits.safetensors", logits, ready.splits.test.labels)
    last = {"epoch": rows[-1]["epoch"], "val": rows[-1]["val"], "test": test}
    if at.best.get("epoch") in (None, last["epoch"]):
        return {"last": last, "best": last}
    state = load_state(folder / "state" / "best.json")
    assert state is not None
    net.module.load_state_dict(state["student"])
    return {"last": last, "best": {"epoch": state["epoch"], "val": state["val"], "test": ready.measure(net, "test")[0]}}


def save_logits(path: Path, logits: Tensor, labels: Any) -> None:
    """Logits (N, C) and labels (N,) for the report."""
    half = logits.detach().float().cpu().numpy().astype(np.float16)
    save_file({"logits": half, "y": np.asarray(labels, dtype=np.int64)}, path)


def tensorboard(config: Config, folder: Path) -> Any:
    """A writer of TensorBoard events, where that is asked for."""
    if "tensorboard" not in config.track:
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder / "tensorboard"))


__all__ = ["Stop", "measured", "run_trial", "save_logits", "tensorboard", "trial_by_step"]
