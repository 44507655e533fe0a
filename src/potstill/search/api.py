"""A sweep as a function."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from potstill.api import Factory, Model, settings_of
from potstill.console import Console
from potstill.search.job import run_sweep
from potstill.search.plan import Plan
from potstill.search.result import SweepResult


def sweep(
    recipe: str | Path | Sequence[str | Path] | None = None,
    *,
    trials: int | None = None,
    over: Mapping[str, Any] | None = None,
    against: str | None = None,
    recover: int | None = None,
    teacher: Model | None = None,
    student: Model | Factory | None = None,
    data: Any = None,
    out: str = "sweeps",
    name: str | None = None,
    workers: int | None = None,
    together: int | None = None,
    launcher: str | None = None,
    stop: bool | None = None,
    quiet: bool = False,
    **settings: Any,
) -> SweepResult:
    """Search settings by trials, each a run; the measure is the accuracy on the validation data, never on the test data.

    Call it again with the same arguments to go on where it was interrupted; with more ``trials`` to have more.

    What is not said here is said by ``sweep:`` in the configuration, if it has that.

    Args:
        recipe: a YAML file or the name of a recipe, or several.
        trials: how many there are to be in all, over all calls and processes that share the folder; None: 20.
        over: what is varied: ``{"losses.kd.temperature": (1, 20), "student": ["resnet8", "resnet14"], "prune": (0, 0.7)}``; a
            pair is a range (whole numbers stay whole; logarithmic where both ends are positive and their ratio is 10 or
            more), a list is a choice. None: temperature and weight of each loss about their published values.
        against: parameters, macs, bytes or latency: a second aim, for a Pareto front. Then no trial is stopped early.
        recover: epochs of distillation after the pruning, where ``prune`` is varied; None: a fifth of the epochs.
        teacher, student, data, **settings: as for :func:`potstill.distill`. One seed a trial, unless ``seeds`` is given.
        out, name: the folder is ``out/name``; None: named by method, student and data.
        workers: processes that share the trials; None: 1.
        together: trials that each of them trains at once, on one pass of the teacher; None: 1.
        launcher: ``"ray"``: the workers are tasks on a Ray cluster, where ``ray={"address": ..., "resources": {"gpu": 1}}``
            says; None: processes of this machine.
        stop: whether trials that are worse than the median of the others are stopped early; None: yes.

    Returns:
        the sweep: ``sweep.settings`` and ``sweep.value`` of the best trial, ``sweep.trials``, ``sweep.front``, ``sweep.path``.

    Raises:
        PotstillError: of the class of what is wrong.
    """
    flags, objects = settings_of(teacher, student, data, settings)
    files = [] if recipe is None else [str(recipe)] if isinstance(recipe, str | Path) else [str(r) for r in recipe]
    said = {"over": over, "trials": trials, "against": against, "recover": recover, "workers": workers, "stop": stop}
    said["together"] = together
    plan = Plan.asked(files, [], flags, **said, launcher=launcher, out=out, name=name, objects=objects)
    return run_sweep(plan, Console(quiet))
