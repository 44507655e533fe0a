"""The student alone at the same budget: trained, or found where it was trained before."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from potstill._version import __version__
from potstill.console import Console
from potstill.meant import ALONE
from potstill.ready import Ready
from potstill.runs import RunFolder
from potstill.trial import run_trial


def control(
    folder: RunFolder, ready: Ready, seed: int, epochs: int, console: Console, stop: Callable[[], bool]
) -> dict[str, Any]:
    """The student alone: the same seed, weights, views and number of steps; learns from the labels only.

    It is kept by the hash of all that it depends on, so that another method at the same budget finds it.
    """
    home = folder.path / f"control-s{seed}"
    stop_after = epochs if epochs < ready.config.epochs else None  # the student was stopped early: so is its control
    key = control_key(ready, seed, stop_after) if folder.facts["resumable"] else None
    kept = Path(folder.path.parent) / ".controls" / key if key else None
    lead = ready.fabric.is_global_zero
    if lead and kept and (kept / "result.json").exists() and not home.exists():
        console.say(f"  control s{seed}: the same budget was trained before; taken from {kept}")
        shutil.copytree(kept, home)
    result = run_trial(
        ready,
        "control",
        seed,
        home,
        net=ready.student,
        losses=ALONE,
        teacher=None,
        console=console,
        stop=stop,
        stop_after=epochs,
    )
    if lead and kept and not kept.exists():
        kept.parent.mkdir(exist_ok=True)
        temporary = kept.with_name(f".{key}.{os.getpid()}")
        shutil.copytree(home, temporary, ignore=shutil.ignore_patterns("state", "tensorboard"))
        try:
            temporary.rename(kept)
        except OSError:  # another run was faster
            shutil.rmtree(temporary)
    return result


def net_hash(module: nn.Module) -> str:
    """The hash of a net before its training: its layers with their settings, its weights, and the code of its class."""
    digest = hashlib.sha256(repr(module).encode())
    for name, value in module.state_dict().items():
        digest.update(name.encode() + value.detach().cpu().contiguous().float().numpy().tobytes())
    for cls in sorted({type(m) for m in module.modules()}, key=repr):
        if not cls.__module__.startswith("torch."):
            with suppress(OSError, TypeError):
                digest.update(inspect.getsource(cls).encode())
    return digest.hexdigest()


def control_key(ready: Ready, seed: int, stop_after: int | None = None) -> str:
    """The hash of all that the student alone depends on."""
    config = ready.config.model_dump(mode="json")
    depends = (
        "student",
        "optim",
        "schedule",
        "epochs",
        "precision",
        "clip",
        "accumulate",
        "early_stop",
        "time_limit",
        "compile",
    )
    facts = {k: config[k] for k in depends}
    data = {**config["data"], "order": ready.config.order(seed)}
    facts |= {"data": ready.splits.fingerprint, "batch": data, "views": repr(ready.views), "seed": seed}
    facts |= {"version": __version__, "device": ready.fabric.device.type}
    facts["labels"] = hashlib.sha256(np.ascontiguousarray(ready.splits.train.labels).tobytes()).hexdigest()
    facts["net"] = net_hash(ready.student(seed).module)
    facts["stop_after"] = stop_after
    if ready.config.student.weights:
        facts["weights"] = hashlib.sha256(Path(ready.config.student.weights).read_bytes()).hexdigest()
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:16]
