"""What a teacher says of the pictures that nets are examined with, kept beside its answers to the training pictures."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from potstill.cache.key import content
from potstill.files import write_atomically

FORMAT = 1


def examined(
    folder: Path, facts: Mapping[str, Any], ask: Callable[[], tuple[dict[str, float], Tensor]]
) -> tuple[dict[str, float], Tensor]:
    """The measures of a teacher on a split and its logits (N, classes), float32: as ``ask`` gives them the first time, read
    from ``folder`` (on the CPU) from then on.

    A file that is damaged is made anew; a folder that cannot be written to is left alone.

    Args:
        facts: all that they depend on, as JSON has it.
    """
    name = hashlib.sha256(json.dumps([FORMAT, facts], sort_keys=True).encode()).hexdigest()[:20]
    path = folder / f"{name}.safetensors"
    if (kept := _read(path)) is not None:
        return kept
    measures, logits = ask()
    said = json.dumps(measures)
    about = {"measures": said, "sha256": _digest(said, logits)}
    with suppress(OSError):
        write_atomically(path, save({"logits": logits.detach().cpu().contiguous()}, about))
    return measures, logits


def _read(path: Path) -> tuple[dict[str, float], Tensor] | None:
    try:
        with safe_open(path, "pt") as file:
            about, logits = file.metadata(), file.get_tensor("logits")
        measures = {str(name): float(value) for name, value in json.loads(about["measures"]).items()}
        return (measures, logits) if _digest(about["measures"], logits) == about["sha256"] else None
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _digest(measures: str, logits: Tensor) -> str:
    return hashlib.sha256(measures.encode() + content(logits)).hexdigest()
