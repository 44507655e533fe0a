"""From a picture of any kind to uint8 (C, H, W), by fixed rules. The user's file is only read."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from warnings import catch_warnings, simplefilter

import numpy as np
from PIL import Image, ImageOps

FORMATS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "BMP": (".bmp",),
    "DIB": (".dib",),
    "GIF": (".gif",),
    "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "JPEG2000": (".jp2",),
    "AVIF": (".avif",),
}
"""What is read. Others that Pillow knows are refused, whatever a file is called: EPS starts a program."""
SUFFIXES = frozenset(s for suffixes in FORMATS.values() for s in suffixes)
"""Files that are taken for pictures."""
ORIENTATION = 0x0112  # the EXIF tag


class Decoded(NamedTuple):
    """A picture and what was done to it.

    Attributes:
        pixels: uint8, (C, H, W).
        grey: whether the picture itself has one channel.
        notes: conversions that a user should know of.
    """

    pixels: np.ndarray
    grey: bool
    notes: tuple[str, ...]


@cache
def formats() -> tuple[str, ...]:
    """Those of :data:`FORMATS` that this Pillow was built with."""
    Image.init()
    return tuple(f for f in FORMATS if f in Image.OPEN)


@contextmanager
def quiet_pillow() -> Iterator[None]:
    """Without Pillow's warnings (a broken EXIF block, many pixels): what is wrong with a picture is an exception or a note.

    Filters of warnings belong to the process, so this goes around a pool of threads and not into it.
    """
    with catch_warnings():
        simplefilter("ignore", UserWarning)
        simplefilter("ignore", Image.DecompressionBombWarning)
        yield


def decode(picture: Any, size: int | None = None, channels: int | None = None) -> Decoded:
    """Decode one picture.

    Rotated as its EXIF block says; the first frame of an animation; transparency over white; palette and CMYK to RGB;
    16 bits to 8 by division by 257; then the shorter side brought to ``size`` (bilinear with antialiasing, the rule of
    torchvision's ``Resize``) and the centre cut out.

    Args:
        picture: a path, the bytes of a file, a PIL image, or an array that :func:`to_chw` made.
        size: side of the result; None keeps the picture as it is.
        channels: 1 or 3; None gives 3, so that all pictures of a set are alike.

    Raises:
        Exception: what Pillow raises for a file that it cannot read.
    """
    if isinstance(picture, np.ndarray):
        n = len(picture)
        if size is None and ((n == 3 and channels != 1) or (n not in (1, 3) and channels is None)):
            return Decoded(picture, False, ())
        picture = Image.fromarray(picture[0] if n == 1 else np.ascontiguousarray(picture.transpose(1, 2, 0)))
    if isinstance(picture, Image.Image):
        return _convert(picture, size, channels)
    with Image.open(io.BytesIO(picture) if isinstance(picture, bytes) else picture, formats=formats()) as image:
        if image.width * image.height > (limit := Image.MAX_IMAGE_PIXELS or 2**62):
            raise Image.DecompressionBombError(f"{image.width}x{image.height} pixels, Pillow's limit is {limit}")
        return _convert(image, size, channels)


def _convert(image: Image.Image, size: int | None, channels: int | None) -> Decoded:
    notes = []
    if getattr(image, "is_animated", False):
        notes.append("animations: first frame taken")
    if image.getexif().get(ORIENTATION, 1) != 1:
        notes.append("rotated as EXIF says")
        image = ImageOps.exif_transpose(image)
    image.load()
    grey = image.mode in ("1", "L", "LA", "La", "I", "I;16", "I;16L", "I;16B", "I;16N")
    if image.mode == "F":
        raise ValueError("32-bit float pixels have no known range")
    if image.mode.startswith("I"):
        notes.append("16-bit brought to 8")
        image = Image.fromarray(np.rint(np.asarray(image).astype(np.float32).clip(0, 65535) / 257).astype(np.uint8))
    if image.mode == "P":
        notes.append("palette to RGB")
    if image.has_transparency_data:
        notes.append("transparency laid over white")
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    if image.mode in ("CMYK", "YCbCr", "LAB", "HSV"):
        notes.append(f"{image.mode} to RGB")
    image = image.convert("L" if channels == 1 or grey else "RGB")
    if not grey and channels == 1:
        notes.append("colour to grey")
    pixels = np.asarray(_resized(image, size) if size else image)
    pixels = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    return Decoded(np.repeat(pixels, 3, 0) if grey and channels != 1 else pixels, grey, tuple(notes))


def _resized(image: Image.Image, size: int) -> Image.Image:
    w, h = image.size
    short = min(w, h)
    if short != size:
        w, h = (size, size * h // w) if w <= h else (size * w // h, size)
        image = image.resize((w, h), Image.Resampling.BILINEAR)
    left, top = round((w - size) / 2), round((h - size) / 2)
    return image.crop((left, top, left + size, top + size)) if (w, h) != (size, size) else image


def to_chw(item: Any) -> Any:
    """A picture of a user's dataset as it is where Pillow knows it, else as an array (C, H, W) of its own type.

    A tensor is (C, H, W) or (H, W); an array is (H, W), (H, W, C) or, where only the first axis can be channels, (C, H, W).
    """
    if isinstance(item, Image.Image | str | Path | bytes):
        return item
    tensor = hasattr(item, "detach")
    array = item.detach().cpu().numpy() if tensor else np.asarray(item)
    if array.ndim == 2:
        return array[None]
    if array.ndim != 3:
        raise ValueError(f"a picture has shape {array.shape}, expected (C, H, W)")
    return array if tensor or (array.shape[2] > 4 and array.shape[0] <= 4) else array.transpose(2, 0, 1)
