"""State on disk: written atomically, read without running any code, whole or not at all."""

from __future__ import annotations

import hashlib
import io
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch

from potstill.errors import ModelError
from potstill.files import write_atomically, write_json


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint; the one before it is kept as well.

    ``path`` (``last.json``) names the files of the newest checkpoints with their sizes and hashes, the newest first, and is
    replaced only when a new file is whole: at every moment it names at least one complete checkpoint.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getvalue()
    before = _entries(path)[:1]
    name = f"{path.stem}.{1 if before and before[0]['file'].endswith('.0.pt') else 0}.pt"
    write_atomically(path.with_name(name), content)
    entry = {"file": name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    write_json(path, {"complete": [entry, *before]})


def load_state(path: Path) -> dict[str, Any] | None:
    """The newest complete checkpoint that ``path`` names; None when none was ever completed.

    Raises:
        ModelError: every checkpoint that was completed is damaged now.
    """
    entries = _entries(path)
    for entry in entries:
        try:
            content = path.with_name(entry["file"]).read_bytes()
        except OSError:
            continue
        if hashlib.sha256(content).hexdigest() == entry["sha256"]:
            state: dict[str, Any] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
            return state
    if entries:
        raise ModelError(
            f"the checkpoints of {path} are damaged: missing, or not what was written (sha256)",
            hint="start a new run; the files are left as they are",
        )
    return None


def _entries(path: Path) -> list[dict[str, Any]]:
    try:
        return list(json.loads(path.read_text())["complete"])
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path} is damaged: {error}", hint="start a new run") from None


def rng_state() -> dict[str, Any]:
    """The state of every global random generator, in types that ``weights_only`` admits."""
    kind, keys, position, has_gauss, gauss = np.random.get_state()
    version, internal, gauss_next = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [
            str(kind),
            torch.from_numpy(np.asarray(keys, dtype=np.int64)),
            int(position),
            int(has_gauss),
            float(gauss),
        ],
        "python": [version, list(internal), gauss_next],
    }


def set_rng_state(state: dict[str, Any]) -> None:
    """Put every global random generator back to a state from :func:`rng_state`."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    kind, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    version, internal, gauss_next = state["python"]
    random.setstate((version, tuple(internal), gauss_next))
