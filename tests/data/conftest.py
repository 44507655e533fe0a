"""Small pictures of every kind; every test has a cache folder of its own."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("POTSTILL_CACHE", str(folder))
    return folder


def noise(seed: int, h: int = 12, w: int = 12, c: int = 3) -> np.ndarray:
    """Random pixels, (h, w, c), or (h, w) for one channel."""
    x = np.random.default_rng(seed).integers(0, 256, (h, w, c), dtype=np.uint8)
    return x[..., 0] if c == 1 else x


def save(path: Path, seed: int, h: int = 12, w: int = 12, c: int = 3) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(seed, h, w, c)).save(path)


Tree = Callable[..., Path]


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """``tree({"train/cat": 3, "test/cat": 2})``: a folder with so many different pictures in each sub-folder."""

    def make(counts: dict[str, int], root: str = "pets", h: int = 12, w: int = 12, c: int = 3) -> Path:
        seed = 0
        for folder, n in counts.items():
            for i in range(n):
                seed += 1
                save(tmp_path / root / folder / f"{i:03d}.png", seed, h, w, c)
        return tmp_path / root

    return make


def snapshot(root: Path) -> dict[str, tuple[int, int, bytes]]:
    """Every file under ``root`` with size, time and content."""
    return {
        str(p.relative_to(root)): (p.stat().st_size, p.stat().st_mtime_ns, p.read_bytes())
        for p in sorted(root.rglob("*"))
        if p.is_file() and os.access(p, os.R_OK)
    }
