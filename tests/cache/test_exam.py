"""What a teacher says of validation and test pictures: asked once, and never taken for another's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from potstill.cache.exam import examined

SAID = {"top1": 1 / 3, "nll": 0.1}, torch.arange(6.0).view(3, 2) / 7


def kept(folder: Path, **facts: str) -> bool:
    """Whether it was there."""
    asked = []

    def ask() -> tuple[dict[str, float], torch.Tensor]:
        asked.append(1)
        return SAID

    measures, logits = examined(folder, {"teacher": "t", **facts}, ask)
    assert measures == SAID[0]
    assert torch.equal(logits, SAID[1])
    return not asked


def test_it_is_asked_once_for_the_same_facts(tmp_path: Path) -> None:
    assert not kept(tmp_path)
    assert kept(tmp_path)
    assert not kept(tmp_path, split="val")
    assert not kept(tmp_path, split="test")
    assert kept(tmp_path, split="val")


@pytest.mark.parametrize("what", [b"0.333", b"{", None])
def test_a_damaged_file_is_made_anew(tmp_path: Path, what: bytes | None) -> None:
    assert not kept(tmp_path)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    at = len(whole) - 1 if what is None else whole.index(what) + len(what) - 1
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    assert not kept(tmp_path)
    assert kept(tmp_path)
    path.write_bytes(b"")
    assert not kept(tmp_path)


def test_a_folder_that_cannot_be_written_to_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert not kept(tmp_path / "file")
    assert not kept(tmp_path / "file")
