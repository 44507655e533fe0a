"""Test pictures as data URIs: small PNGs inside the page."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np

from potstill.report.numbers import class_names, name_of
from potstill.report.read import Run
from potstill.report.words import clean

MOST = 24  # pictures
SIDE = 96  # pixels; larger ones are shrunk, smaller ones are kept and enlarged by the browser, pixel by pixel
BYTES = 250_000  # of all data URIs together


def pictures(run: Run) -> list[dict[str, Any]]:
    """What the page shows of ``examples.safetensors``, within a bound of bytes."""
    examples, names = run.examples, class_names(run)
    if examples is None:
        return []
    shown: list[dict[str, Any]] = []
    room = BYTES
    for i in range(min(len(examples.images), MOST)):
        src, width, height = png(examples.images[i])
        room -= len(src)
        if room < 0:
            break
        true, student, teacher = (int(a[i]) for a in (examples.y, examples.student, examples.teacher))
        said = {"true": true, "student": student, "teacher": teacher}
        row: dict[str, Any] = {k: clean(name_of(names, c), 40) for k, c in said.items()}
        row |= {"student_right": student == true, "teacher_right": teacher == true}
        shown.append(row | {"src": src, "width": width, "height": height, "id": int(examples.ids[i])})
    return shown


def png(image: np.ndarray) -> tuple[str, int, int]:
    """A picture (C, H, W), uint8, as a data URI with its width and height. Three channels or more are RGB, else grey."""
    from PIL import Image

    pixels = image[:3].transpose(1, 2, 0) if len(image) >= 3 else image[0]
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    picture.thumbnail((SIDE, SIDE))
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}", picture.width, picture.height
