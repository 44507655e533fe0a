"""Distil back: an ordinary run whose student is the net that was cut, beside the same net that learns from labels only."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from potstill import run
from potstill.compress.stage import Work
from potstill.config.load import resolve
from potstill.config.schema import Config
from potstill.config.stages import recovery
from potstill.models.resolve import load_student
from potstill.ready import Objects
from potstill.runs import RunFolder

KEPT = (
    *("data", "optim", "schedule", "seed", "precision", "device", "devices"),
    *("compile", "clip", "accumulate", "checkpoint_activations", "trust_code", "save_every", "save_steps"),
)
"""What a recovery takes over from the run that is compressed."""


@dataclass(frozen=True)
class Recover:
    """Train a cut net again, with its teacher.

    Beside it the same net learns from the labels alone for as many steps (``control``), so that every recovery says what the
    teacher brought; what the BatchNorm statistics alone bring is measured by the stage that cut.

    Attributes:
        epochs: passes over the training data.
        method: published methods joined by ``+``. DIST by default: of the methods tried on CIFAR-100 (benchmarks/README.md) it
            brought a cut net back best, KD at its published weights did worse than labels alone.
        lr: learning rate; None: a fifth of the run's, as others do for nets that are trained already.
        control: whether the same net also learns from the labels alone.
        settings: further settings by their names: ``{"seeds": 3, "losses.dist.temperature": 2}``.
    """

    epochs: int = 10
    method: str = "dist"
    lr: float | None = None
    control: bool = True
    settings: dict[str, Any] = field(default_factory=dict)
    kind = "recover"
    resumes = True

    def __post_init__(self) -> None:
        resolve([], [], recovery(vars(self)), "distill")  # wrong settings are told before anything is cut

    def run(self, work: Work) -> dict[str, Any]:
        before, home = work.measured(), work.folder / "run"
        objects = self._objects(work)
        if not (home / "run.json").exists():
            config = self._config(work).model_copy(update={"out": str(work.folder), "name": "run"})
            done = run.distill(config, objects, command=["potstill compress"], console=work.console)
        elif RunFolder.open(home).facts["status"] != "done":
            done = run.resume(home, objects=objects, console=work.console)
        else:  # it ended just before the stage did
            facts = RunFolder.open(home).facts
            own = load_student(home, trust_code=work.config.trust_code, module=_fresh(work))
            done = run.RunResult(home, facts, own)
        work.net = done.net
        work.net.module.cpu().eval()
        results = done.results
        notices = []
        measured = work.measured()
        if measured["val"]["top1"] < before["val"]["top1"]:
            notices.append("the recovery made it worse on the validation data: more epochs, or another lr")
        notices += advice(results["difference"])
        return {
            **measured,
            **work.costs(),
            "before": before,
            "labels": results["control"],
            "distilled": results["student"],
            "difference": results["difference"],
            "budget": done.facts["budget"],
            "notices": notices,
        }

    def _objects(self, work: Work) -> Objects | None:
        """What no name says: a caller's own modules and data."""
        given, student = work.objects, work.net.spec.startswith("object:")
        last = [*work.before.values()][-1]

        def fresh() -> Any:
            return load_student(last, module=_fresh(work))

        objects = Objects(work.teacher if given.teacher is not None else None, fresh if student else None, given.data)
        return objects if any(o is not None for o in (objects.teacher, objects.student, objects.data)) else None

    def _config(self, work: Work) -> Config:
        last = [*work.before.values()][-1]
        flags = {
            **kept(work.config),
            "student.model": str(last),
            "teacher.model": work.config.teacher.model if work.config.teacher else work.teacher.spec,
            "method": self.method,
            "epochs": self.epochs,
            "optim.lr": self.lr or work.config.optim.lr / 5,
            "control": self.control,
            "allow_weak_teacher": True,
            "track": [],
            **self.settings,
        }
        return resolve([], [], flags, "distill").config


def advice(difference: Mapping[str, Any] | None) -> list[str]:
    """What to say where the teacher did harm: ``difference`` is to the net that learned from labels alone, in shares."""
    if difference is None or difference["mean"] >= 0:
        return []
    return [
        f"labels alone brought back {-100 * difference['mean']:.1f} points more on the test data: try a stronger "
        "teacher, more epochs, method dist, or kd with settings {losses.kd.weight: 1, losses.ce.weight: 1}"
    ]


def _fresh(work: Work) -> Any:
    """The caller's own module as it was before it was compressed, where the net is one."""
    return copy.deepcopy(work.origin) if work.net.spec.startswith("object:") else None


def kept(config: Config) -> dict[str, Any]:
    """The settings of :data:`KEPT` by their keys."""
    tree = config.model_dump(mode="json", by_alias=True)
    return dict(_flat({name: tree[name] for name in KEPT}))


def _flat(tree: Mapping[str, Any], way: str = "") -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for key, value in tree.items():
        pairs += _flat(value, f"{way}{key}.") if isinstance(value, Mapping) and value else [(way + key, value)]
    return pairs
