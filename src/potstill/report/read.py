"""A run directory, read with patience: what is there is taken, what is not is named. No torch."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from potstill.errors import ConfigError

FORMAT = 1
TEXT_LIMIT = 32_000  # characters of a text file that a page shows
ROWS = 8192  # rows of logits that are widened to float32 at a time


@dataclass(frozen=True)
class Said:
    """What a net said about the test pictures: all that the page needs of its logits.

    Attributes:
        top: the class with the largest logit, (N,), int64.
        confidence: its probability, (N,), float32.
        y: the true class, (N,), int64.
    """

    top: np.ndarray
    confidence: np.ndarray
    y: np.ndarray

    @property
    def right(self) -> np.ndarray:
        return np.equal(self.top, self.y)


@dataclass(frozen=True)
class Trial:
    """One training: a role (``student``, ``control``) with a seed."""

    name: str
    role: str
    seed: int
    epochs: list[dict[str, Any]]
    result: dict[str, Any] | None
    said: Said | None


@dataclass(frozen=True)
class Examples:
    """Test pictures on which student and teacher disagree: uint8 (K, C, H, W), and four int64 (K,)."""

    images: np.ndarray
    ids: np.ndarray
    y: np.ndarray
    student: np.ndarray
    teacher: np.ndarray


@dataclass(frozen=True)
class Decided:
    """Training pictures in pairs of a class, the one that is distilled least and the one that is distilled most, with the mean
    probability over the spots: uint8 (K, C, H, W), int64 (K,) twice, float32 (K,)."""

    images: np.ndarray
    ids: np.ndarray
    y: np.ndarray
    p: np.ndarray


@dataclass
class Run:
    """A run directory as far as it exists.

    Attributes:
        path: the directory.
        facts: ``run.json``.
        student_sha256: of ``student.safetensors``, the net that is shipped.
        missing: what a finished run would have and this one has not, a sentence each.
    """

    path: Path
    facts: dict[str, Any]
    config: str | None = None
    trials: list[Trial] = field(default_factory=list)
    teacher: Said | None = None
    examples: Examples | None = None
    decided: Decided | None = None
    student_sha256: str | None = None
    missing: list[str] = field(default_factory=list)

    def role(self, role: str) -> list[Trial]:
        return [t for t in self.trials if t.role == role]

    @property
    def name(self) -> str:
        return text(dig(self.facts, "name")) or self.path.resolve().name


def dig(tree: Any, *keys: str) -> Any:
    """``tree[a][b]...``, or None where a step does not exist: run.json may be half filled in."""
    for key in keys:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree


def number(value: Any) -> float | None:
    """A finite number, or None for anything else: a diverged run writes NaN."""
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if good else None


def text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def read(path: str | Path, *, deep: bool = True) -> Run:
    """Read a run directory.

    Args:
        path: the directory, ``runs/NAME``.
        deep: also read what only the page of one run needs: curves, logits, pictures, configuration.

    Raises:
        ConfigError: ``path`` is no run directory, or of a later format.
    """
    path = Path(path)
    run = Run(path, _facts(path))
    status = dig(run.facts, "status")
    if dig(run.facts, "results") is None:
        run.missing.append(f"run.json has no final results (status: {status or 'unknown'})")
    folders = sorted((p for p in path.iterdir() if _role_and_seed(p)), key=lambda p: _role_and_seed(p) or ("", 0))
    run.trials = [_trial(p, run.missing, deep) for p in folders]
    present = {(t.role, t.seed) for t in run.trials}
    seeds = [s for s in items(dig(run.facts, "seeds")) if isinstance(s, int)]
    roles = ["student"] + ["control"] * bool(run.role("control") or dig(run.facts, "results", "control"))
    run.missing += [f"trial {r}-s{s} has not begun" for r in roles for s in seeds if (r, s) not in present]
    if not deep:
        return run
    run.student_sha256 = _sha256(path / "student.safetensors")
    run.config = _text_file(path / "config.yaml", run.missing)
    if dig(run.facts, "kind") != "train":
        run.teacher = _said(path / "teacher.logits.safetensors", run.missing)
        run.examples = _examples(path / "examples.safetensors", run.missing)
        run.decided = _decided(path / "decided.safetensors", run.missing)
    return run


def read_all(paths: Sequence[str | Path], *, deep: bool = False) -> list[Run]:
    """Read several run directories.

    Raises:
        ConfigError: none was given, one twice, or a path is no run directory.
    """
    if not paths:
        raise ConfigError("expected at least one run directory, got none", hint="potstill report runs/NAME")
    resolved = [Path(p).resolve() for p in paths]
    for p, q in zip(paths, resolved, strict=True):
        if resolved.count(q) > 1:
            raise ConfigError(f"the run {str(p)!r} was given twice", hint="name each run once")
    return [read(p, deep=deep) for p in paths]


def _facts(path: Path) -> dict[str, Any]:
    where, file = str(path), path / "run.json"
    if not path.is_dir():
        came = "a file" if path.exists() else "nothing"
        raise ConfigError(f"expected a run directory (with a run.json), found {came}", where=where, hint="ls runs")
    if not file.is_file():
        inside = sorted(p.name for p in path.iterdir())
        runs = [n for n in inside if (path / n / "run.json").is_file()]
        came = ", ".join(inside[:5]) + (", ..." if len(inside) > 5 else "") if inside else "an empty folder"
        raise ConfigError(
            f"expected a run directory: it has no run.json; found {came}",
            where=where,
            hint=f"potstill report {path / runs[-1]}" if runs else "give the folder that `potstill distill` printed",
        )
    try:
        facts = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as e:
        raise ConfigError(f"run.json cannot be read: {e}", where=where) from None
    if not isinstance(facts, dict):
        raise ConfigError(f"run.json must hold a mapping, got {type(facts).__name__}", where=where)
    if (number(facts.get("format")) or 0) > FORMAT:
        raise ConfigError(
            f"run.json has format {facts['format']}; this potstill reads formats up to {FORMAT}",
            where=where,
            hint="pip install -U potstill",
        )
    return facts


def _role_and_seed(path: Path) -> tuple[str, int] | None:
    role, found, seed = path.name.rpartition("-s")
    return (role, int(seed)) if found and role and seed.isdecimal() and path.is_dir() else None


def _trial(path: Path, missing: list[str], deep: bool) -> Trial:
    role, seed = _role_and_seed(path) or ("", 0)
    epochs = _metrics(path / "metrics.jsonl", missing) if deep else []
    result = None
    try:
        result = json.loads((path / "result.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        after = f" after {len(epochs)} epochs" if epochs else ""
        missing.append(f"{path.name} has not finished: no result.json{after}")
    except (OSError, ValueError, RecursionError) as e:
        missing.append(f"{path.name}/result.json cannot be read: {e}")
    result = result if isinstance(result, dict) else None
    said = _said(path / "test.logits.safetensors", missing) if deep and result else None
    return Trial(path.name, role, seed, epochs, result, said)


def _metrics(path: Path, missing: list[str]) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl that can be read; the last one may be cut off by a kill."""
    try:
        raw = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        missing.append(f"{path.parent.name}/metrics.jsonl does not exist: no curves")
        return []
    epochs, broken = [], 0
    for line in raw:
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, dict) and number(value.get("epoch")) is not None:
            epochs.append(value)
        else:
            broken += bool(line.strip())
    if broken:
        missing.append(
            f"{path.parent.name}/metrics.jsonl: {broken} of {len(raw)} lines cut off or unreadable, left out"
        )
    return epochs


def _said(path: Path, missing: list[str]) -> Said | None:
    where = path.name if path.name.startswith("teacher") else f"{path.parent.name}/{path.name}"
    arrays = _tensors(path, ("logits", "y"), where, missing)
    if arrays is None:
        return None
    logits, y = arrays["logits"], arrays["y"].astype(np.int64)
    if logits.ndim != 2 or y.shape != logits.shape[:1] or logits.size == 0 or logits.dtype.kind != "f":
        missing.append(f"{where}: expected logits (N, C) and y (N,), got {logits.shape} and {y.shape}")
        return None
    if not np.isfinite(logits).all() or y.min() < 0 or y.max() >= logits.shape[1]:
        missing.append(f"{where}: holds logits that are not finite, or classes beyond them")
        return None
    confidence = np.empty(len(y), np.float32)
    for i in range(0, len(y), ROWS):
        z = logits[i : i + ROWS].astype(np.float32)
        confidence[i : i + ROWS] = 1 / np.exp(z - z.max(1, keepdims=True)).sum(1)
    return Said(logits.argmax(1).astype(np.int64), confidence, y)


def _examples(path: Path, missing: list[str]) -> Examples | None:
    names = ("images", "ids", "y", "student", "teacher")
    arrays = _tensors(path, names, path.name, missing)
    if arrays is None:
        return None
    images, *rest = (arrays[n] for n in names)
    if images.ndim != 4 or images.dtype != np.uint8 or any(a.shape != images.shape[:1] for a in rest):
        missing.append(f"{path.name}: expected uint8 images (K, C, H, W) and four vectors (K,), got {images.shape}")
        return None
    return Examples(images, *(a.astype(np.int64) for a in rest))


def _decided(path: Path, missing: list[str]) -> Decided | None:
    """Only a run with a policy has this file."""
    if not path.exists() or (arrays := _tensors(path, ("images", "ids", "y", "p"), path.name, missing)) is None:
        return None
    images, *rest = (arrays[n] for n in ("images", "ids", "y", "p"))
    if images.ndim != 4 or images.dtype != np.uint8 or any(a.shape != images.shape[:1] for a in rest):
        missing.append(f"{path.name}: expected uint8 images (K, C, H, W) and three vectors (K,), got {images.shape}")
        return None
    return Decided(images, rest[0].astype(np.int64), rest[1].astype(np.int64), rest[2].astype(np.float32))


def _tensors(path: Path, names: Sequence[str], where: str, missing: list[str]) -> dict[str, np.ndarray] | None:
    from safetensors.numpy import load_file

    try:
        arrays: dict[str, np.ndarray] = load_file(path)
        return {n: arrays[n] for n in names}
    except FileNotFoundError:
        missing.append(f"{where} does not exist")
    except Exception as e:  # a broken file raises SafetensorError, KeyError, TypeError, ValueError ... by version
        missing.append(f"{where} cannot be read: {type(e).__name__} {e}")
    return None


def _sha256(path: Path) -> str | None:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def _text_file(path: Path, missing: list[str]) -> str | None:
    try:
        whole = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        missing.append(f"{path.name} does not exist")
        return None
    return whole if len(whole) <= TEXT_LIMIT else f"{whole[:TEXT_LIMIT]}\n... {len(whole) - TEXT_LIMIT} characters more"
