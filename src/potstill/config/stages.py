"""The stages of a compression by name, and what `compress:` says of them, held to their classes. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from potstill.config.introspect import fields_model
from potstill.config.problems import Problem, choice, translate

STAGES = {
    "prune": "potstill.compress.prune:Prune",
    "sparsify": "potstill.compress.sparsity:Sparsify",
    "lowrank": "potstill.compress.lowrank:LowRank",
    "recover": "potstill.compress.recover:Recover",
    "recalibrate": "potstill.compress.recalibrate:Recalibrate",
    "quantize": "potstill.compress.quantize:Quantize",
    "export": "potstill.compress.export:Export",
    "verify": "potstill.compress.verify:Verify",
}
"""The stages that have a name: their classes, imported when they are asked for."""
FIRST = {
    "prune": "ratio",
    "lowrank": "ratio",
    "sparsify": "ratio",
    "recover": "epochs",
    "quantize": "precision",
    "export": "to",
    "verify": "allowed_drop",
}
"""The setting of a stage that a plain value means."""
FORMATS = ("onnx", "pt2", "pte")


def recovery(said: Mapping[str, Any]) -> dict[str, Any]:
    """What a recovery says of its training, as flags of some nets: to see whether it means anything."""
    named = {key: said[key] for key in ("method", "epochs", "control") if key in said}
    lr = {} if said.get("lr") is None else {"optim.lr": said["lr"]}
    return {"teacher.model": "resnet8", "student.model": "resnet8", **named, **lr, **said.get("settings", {})}


def problems_of(compress: Any) -> list[Problem]:
    """What is wrong inside the stages of ``compress:``; that it is a mapping, and its keys, the schema says.

    Their numbers are held to each other later, when there is torch: still before anything is trained.
    """
    found: list[Problem] = []
    for stage in FIRST if isinstance(compress, Mapping) else ():
        value = compress.get(stage)
        if value is None or isinstance(value, bool):
            continue
        mapped = isinstance(value, Mapping)
        key = "pattern" if stage == "sparsify" and isinstance(value, str) else FIRST[stage]
        model = fields_model(STAGES[stage])
        given = dict(value) if mapped else {key: value}
        try:
            model.model_validate(given)
        except ValidationError as error:
            faults = translate(error, given, {(): list(model.model_fields)})
            found += [Problem(("compress", stage, *(p.at if mapped else ())), p.what, p.hint) for p in faults]
        found += _names(stage, given, mapped)
    return found


def _names(stage: str, given: Mapping[str, Any], mapped: bool) -> list[Problem]:
    """Names of formats, which may stand in a list or be joined by commas."""
    said = given.get("to")
    if stage != "export" or not isinstance(said, str | list):
        return []
    kinds = said.split(",") if isinstance(said, str) else said
    at = ("compress", stage, *(["to"] if mapped else []))
    return [Problem(at, choice(kind, FORMATS)) for kind in kinds if kind not in FORMATS]
