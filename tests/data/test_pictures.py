"""Decoding by rule. Expected pixels are made by hand, not by the same calls."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from potstill.data.pictures import ORIENTATION, decode, formats, quiet_pillow, to_chw

from .conftest import noise


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def test_rgb_as_it_is() -> None:
    x = noise(0, 7, 9)
    got = decode(encoded(Image.fromarray(x)))
    assert np.array_equal(got.pixels, x.transpose(2, 0, 1))
    assert (got.grey, got.notes) == (False, ())


def test_grey_has_three_equal_channels_or_one() -> None:
    x = noise(0, 7, 9, 1)
    got = decode(encoded(Image.fromarray(x)))
    assert got.grey
    assert np.array_equal(got.pixels, np.stack([x] * 3))
    assert np.array_equal(decode(encoded(Image.fromarray(x)), channels=1).pixels, x[None])
    one_bit = Image.fromarray(x > 127)
    assert set(np.unique(decode(encoded(one_bit)).pixels)) == {0, 255}


def test_colour_to_grey_by_luma() -> None:
    x = noise(0)
    got = decode(encoded(Image.fromarray(x)), channels=1)
    assert np.abs(got.pixels[0] - x @ np.array([0.299, 0.587, 0.114])).max() <= 1
    assert got.notes == ("colour to grey",)


@pytest.mark.parametrize("turn", range(1, 9))
def test_exif_rotation(turn: int) -> None:
    x = np.kron(noise(1, 4, 6), np.ones((8, 8, 1), np.uint8))
    exif = Image.Exif()
    exif[ORIENTATION] = turn
    upright = {1: x, 2: x[:, ::-1], 3: x[::-1, ::-1], 4: x[::-1], 5: x.swapaxes(0, 1), 6: np.rot90(x, -1)}
    upright |= {7: np.rot90(x, 2).swapaxes(0, 1), 8: np.rot90(x)}
    got = decode(encoded(Image.fromarray(x), "PNG", exif=exif))
    assert np.array_equal(got.pixels.transpose(1, 2, 0), upright[turn])
    assert got.notes == (() if turn == 1 else ("rotated as EXIF says",))


def test_transparency_over_white() -> None:
    x = np.dstack((noise(2), np.tile(np.array([0, 128, 255], np.uint8), (12, 4))))
    got = decode(encoded(Image.fromarray(x, "RGBA")))
    alpha = x[..., 3:] / 255
    assert np.abs(got.pixels.transpose(1, 2, 0) - (x[..., :3] * alpha + 255 * (1 - alpha))).max() <= 1
    assert got.notes == ("transparency laid over white",)
    la = decode(encoded(Image.fromarray(x[..., 2:], "LA")))
    assert la.grey
    assert (la.pixels[:, :, 0] == 255).all()


def test_palette_with_a_transparent_colour() -> None:
    image = Image.fromarray(np.arange(144, dtype=np.uint8).reshape(12, 12) % 4, "P")
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 9, 9])
    plain = decode(encoded(image))
    assert plain.pixels[:, 0, :4].T.tolist() == [[255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 9, 9]]
    assert plain.notes == ("palette to RGB",)
    clear = decode(encoded(image, transparency=3))
    assert clear.pixels[:, 0, 3].tolist() == [255, 255, 255]
    assert clear.pixels[:, 0, 0].tolist() == [255, 0, 0]


def test_sixteen_bits_are_scaled_not_cut() -> None:
    x = np.arange(0, 65536, 455, dtype=np.uint16)[:144].reshape(12, 12)
    got = decode(encoded(Image.fromarray(x)))  # I;16
    assert got.grey
    assert np.array_equal(got.pixels[0], np.rint(x / 257).astype(np.uint8))
    assert "16-bit brought to 8" in got.notes


def test_cmyk_and_animation() -> None:
    cmyk = Image.fromarray(np.kron(noise(3, 2, 2), np.ones((16, 16, 1), np.uint8))).convert("CMYK")
    got = decode(encoded(cmyk, "JPEG", quality=100))
    assert got.pixels.shape == (3, 32, 32)
    assert got.notes == ("CMYK to RGB",)
    assert np.abs(got.pixels[:, 8, 8].astype(int) - noise(3, 2, 2)[0, 0]).max() < 12
    red, blue = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    moving = decode(encoded(red, "GIF", save_all=True, append_images=[blue]))
    assert moving.pixels[:, 0, 0].tolist() == [255, 0, 0]
    assert "animations: first frame taken" in moving.notes


def test_size_scales_the_shorter_side_and_cuts_the_centre() -> None:
    x = np.zeros((20, 40, 3), np.uint8)
    x[:, 10:30] = 200  # the middle half
    got = decode(encoded(Image.fromarray(x)), size=10)
    assert got.pixels.shape == (3, 10, 10)
    assert (got.pixels[:, :, 1:-1] == 200).all()
    tall = decode(encoded(Image.fromarray(x.swapaxes(0, 1).copy())), size=10)
    assert np.array_equal(tall.pixels, got.pixels.swapaxes(1, 2))
    assert decode(encoded(Image.fromarray(noise(0, 33, 47))), size=32).pixels.shape == (3, 32, 32)
    assert decode(encoded(Image.fromarray(noise(0, 8, 8))), size=32).pixels.shape == (3, 32, 32)
    same = noise(0, 16, 16)
    assert np.array_equal(decode(encoded(Image.fromarray(same)), size=16).pixels, same.transpose(2, 0, 1))


def test_shrinking_is_antialiased() -> None:
    stripes = np.zeros((64, 64), np.uint8)
    stripes[:, ::2] = 255
    got = decode(encoded(Image.fromarray(stripes)), size=16).pixels
    assert np.abs(got.astype(int) - 127).max() < 20  # nearest or plain bilinear would give 0 or 255


def test_bombs_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    content = encoded(Image.new("L", (100, 100)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 9_999)  # Pillow itself only warns up to twice that
    with quiet_pillow(), pytest.raises(Image.DecompressionBombError, match="100x100"):
        decode(content)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert decode(content).pixels.shape == (3, 100, 100)


def test_formats_that_start_programs_are_not_read() -> None:
    assert not {"EPS", "PDF", "WMF", "GRIB", "HDF5"} & {*formats()}
    with pytest.raises(Image.UnidentifiedImageError):
        decode(encoded(Image.new("RGB", (8, 8)), "EPS"))
    with pytest.raises(Image.UnidentifiedImageError):
        decode(encoded(Image.new("RGB", (8, 8)), "TGA"))


def test_truncated_files_raise() -> None:
    content = encoded(Image.fromarray(noise(0, 64, 64)), "JPEG")
    with pytest.raises(OSError, match="truncated"):
        decode(content[: len(content) // 2])
    with pytest.raises(OSError, match="identify"):
        decode(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ValueError, match="range"):
        decode(encoded(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"))


def test_arrays() -> None:
    x = noise(0).transpose(2, 0, 1)
    assert decode(x).pixels is x
    assert decode(x, channels=3).pixels is x
    assert decode(x, channels=1).pixels.shape == (1, 12, 12)
    assert np.array_equal(decode(x[:1]).pixels, np.repeat(x[:1], 3, 0))
    assert np.array_equal(decode(x[:1], channels=1).pixels, x[:1])
    assert decode(x[:1]).grey
    assert decode(x, size=6).pixels.shape == (3, 6, 6)
    assert decode(np.zeros((5, 12, 12), np.uint8)).pixels.shape == (5, 12, 12)
    with pytest.raises(TypeError):
        decode(np.zeros((5, 12, 12), np.uint8), size=6)


def test_to_chw() -> None:
    import torch

    x = noise(0, 6, 7)
    assert to_chw(x).shape == (3, 6, 7)
    assert to_chw(x.transpose(2, 0, 1)).shape == (3, 6, 7)
    assert to_chw(x[..., 0]).shape == (1, 6, 7)
    assert to_chw(torch.zeros(3, 6, 7)).shape == (3, 6, 7)
    assert to_chw(torch.zeros(3, 3, 3)).shape == (3, 3, 3)
    assert to_chw(torch.zeros(6, 7)).dtype == np.float32
    with pytest.raises(ValueError, match="shape"):
        to_chw(np.zeros((2, 3, 6, 7)))
