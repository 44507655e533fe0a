"""What a sweep says of itself: its trials in numbers, the best of them, the front of those that no other beats."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from potstill._version import __version__
from potstill.search.ledger import Ledger
from potstill.search.space import Dimension

ENOUGH = 6
"""Finished trials from which on the importance of the settings is said: fewer tell nothing."""
Row = dict[str, Any]


def collect(ledger: Ledger, about: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of a sweep, plain JSON: what ``sweep.json`` says.

    Returns:
        ``about``, and ``space``; ``trials``: rows ``{"number", "state", "settings", "value", "costs", "epochs", "seconds",
        "home", "why"}`` with the states done, stopped, diverged, failed, died, running; ``best``: the number of the most
        accurate one; ``front``: those that no other beats in accuracy and cost, by cost; ``importance`` of the settings.
    """
    found = rows(ledger)
    top, against = best(found), about.get("against")
    return {
        "format": 1,
        "potstill": __version__,
        **about,
        "space": [d.facts() for d in ledger.dimensions.values()],
        "trials": found,
        "best": top["number"] if top else None,
        "front": [r["number"] for r in front(found, against)] if against else [],
        "importance": importance(ledger, sum(r["state"] == "done" for r in found)),
    }


def rows(ledger: Ledger) -> list[Row]:
    """Every trial that is over or at work."""
    return [_row(ledger, trial) for trial in ledger.trials()]


def best(found: Sequence[Row]) -> Row | None:
    """The most accurate trial that is done; of equals the first."""
    return max((r for r in found if r["state"] == "done"), key=lambda r: r["value"], default=None)


def front(found: Sequence[Row], against: str) -> list[Row]:
    """The trials that no other beats: whichever is more accurate costs more. By cost; of equals the first."""
    done = [r for r in found if r["state"] == "done"]
    chosen: list[Row] = []
    for row in sorted(done, key=lambda r: (r["costs"][against], -r["value"], r["number"])):
        if not chosen or row["value"] > chosen[-1]["value"]:
            chosen.append(row)
    return chosen


def importance(ledger: Ledger, done: int) -> dict[str, float]:
    """The share that each setting has in whether a trial is among the best (PED-ANOVA, arXiv 2304.10255); empty: not known."""
    if done < ENOUGH or len(ledger.dimensions) < 2:
        return {}
    made = ledger.optuna.importance
    target = (lambda trial: -trial.values[0]) if ledger.several else None  # with a target, low ones are taken for good
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that they are
            found = made.get_param_importances(
                ledger.study, evaluator=made.PedAnovaImportanceEvaluator(), target=target
            )
    except (ValueError, RuntimeError):  # every trial has the same value, say
        return {}
    return {key: float(share) for key, share in found.items()} if all(map(math.isfinite, found.values())) else {}


def _row(ledger: Ledger, trial: Any) -> Row:
    own, states = trial.user_attrs, ledger.optuna.trial.TrialState
    state = {states.COMPLETE: "done", states.RUNNING: "running", states.FAIL: "died"}.get(trial.state) or own["how"]
    return {
        "number": trial.number,
        "state": state,
        "settings": ledger.values(trial),
        "value": trial.values[0] if state == "done" else _last(trial),
        "costs": own.get("costs") or {},
        "epochs": own.get("epochs") or max(trial.intermediate_values, default=None),
        "seconds": round(trial.duration.total_seconds(), 1) if trial.duration else None,
        "home": f"trials/{own['home']}" if "home" in own else None,
        "why": own.get("why"),
    }


def _last(trial: Any) -> float | None:
    """The accuracy up to which a trial came that did not end."""
    return trial.intermediate_values[max(trial.intermediate_values)] if trial.intermediate_values else None


def tested(folder: Path, row: Row) -> float | None:
    """Top-1 on the test data of a trial's net, with the weights of its best epoch. Asked of the best ones, at the end only."""
    home = folder / row["home"]
    if row["settings"].get("prune") and (chain := home / "pruned" / "chain.json").is_file():
        return float(json.loads(chain.read_text("utf-8"))["stages"][-1]["facts"]["test"]["top1"])
    try:
        facts = json.loads((home / "run.json").read_text("utf-8"))
    except (OSError, ValueError):  # somebody tidied up
        return None
    return float(facts["results"]["student"]["best"]["top1"]["mean"])


def short(key: str) -> str:
    """``losses.kd.temperature`` -> ``kd.temperature``; ``student.model`` -> ``student``; ``optim.lr`` -> ``lr``."""
    head, _, rest = key.partition(".")
    key = rest if head in ("losses", "optim", "data") and rest else key
    return key.removesuffix(".model")


def written(settings: Mapping[str, Any]) -> str:
    """``kd.temperature=3.1 kd.weight=0.52``."""
    return "  ".join(f"{short(k)}={v:.3g}" if isinstance(v, float) else f"{short(k)}={v}" for k, v in settings.items())


def space_lines(dimensions: Sequence[Dimension]) -> list[str]:
    """A line for each dimension."""
    width = max(len(d.key) for d in dimensions)
    return [f"{d.key.ljust(width)}  {d.words()}" for d in dimensions]
