"""Loading: every trap of a checkpoint has its own words. Saving: whole or not at all."""

import argparse
import hashlib
import os
import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from potstill.errors import MachineError, ModelError, PotstillError, RefusedError
from potstill.models import load_weights, save_weights
from potstill.models.cnn import CNN


def net(seed: int = 0) -> CNN:
    torch.manual_seed(seed)
    return CNN(widths=(4,), num_classes=3, in_channels=1)


def same(a: nn.Module, b: nn.Module) -> bool:
    theirs = b.state_dict()
    return all(torch.equal(v, theirs[k]) for k, v in a.state_dict().items())


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
        self.head.weight = self.embed.weight


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("proof",)


# saving


def test_round_trip_is_exact_and_plain(tmp_path: Path) -> None:
    a, b, path = net(0), net(1), tmp_path / "deep" / "w.safetensors"
    digest = save_weights(a, path)
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert load_file(path).keys() == a.state_dict().keys()
    assert not same(a, b)
    assert load_weights(b, path) == []
    assert same(a, b)
    assert os.listdir(path.parent) == ["w.safetensors"]


def test_saving_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    assert (
        save_weights(Tied(), tmp_path / "a")
        != save_weights(net(), tmp_path / "b")
        == save_weights(net(), tmp_path / "c")
    )


def test_a_header_may_begin_like_a_pickle(tmp_path: Path) -> None:
    state = {"w": torch.rand(2)}
    for n in range(300):
        save_file(state, tmp_path / "w.bin", metadata={"note": "x" * n})
        if (tmp_path / "w.bin").read_bytes()[0] == 0x80:
            break
    else:
        pytest.fail("no header of such a length")
    module = nn.Module()
    module.register_buffer("w", torch.zeros(2))
    load_weights(module, tmp_path / "w.bin")
    assert torch.equal(module.w, state["w"])


def test_shared_and_strided_tensors(tmp_path: Path) -> None:
    a, b = Tied(), Tied()
    a.register_buffer("column", torch.rand(3, 4)[:, 0])  # neither contiguous nor the whole of its storage
    a.register_buffer("turned", torch.rand(3, 4).t())
    flat = torch.rand(8)
    a.register_buffer("left", flat[:5])  # two parts, even overlapping ones, of one storage
    a.register_buffer("right", flat[3:])
    b.register_buffer("column", torch.zeros(3))
    b.register_buffer("turned", torch.zeros(4, 3))
    b.register_buffer("left", torch.zeros(5))
    b.register_buffer("right", torch.zeros(5))
    save_weights(a, tmp_path / "w.safetensors")
    assert load_file(tmp_path / "w.safetensors").keys() == {"embed.weight", "column", "turned", "left", "right"}
    assert load_weights(b, tmp_path / "w.safetensors") == []
    assert same(a, b)
    assert b.head.weight is b.embed.weight


def test_a_missing_tensor_is_not_excused_by_another_of_the_same_shape(tmp_path: Path) -> None:
    state = Tied().state_dict()
    del state["head.weight"]
    untied = nn.ModuleDict({"embed": nn.Linear(3, 3, bias=False), "head": nn.Linear(3, 3, bias=False)})
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match=r"1 missing: head\.weight"):
        load_weights(untied, tmp_path / "w.safetensors")


def test_a_failed_save_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(net(0), path)
    before = path.read_bytes()

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(MachineError, match="No space left"):
        save_weights(net(1), path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["w.safetensors"]


def test_only_tensors_are_saved(tmp_path: Path) -> None:
    class Odd(nn.Linear):
        def get_extra_state(self) -> str:
            return "hello"

    with pytest.raises(ModelError, match=r"_extra_state.*str"):
        save_weights(Odd(1, 1), tmp_path / "w")


# loading what fits


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: {"state_dict": s, "epoch": 3},
        lambda s: {"epoch": torch.tensor(3), "model": s, "optimizer": {"state": {}}},
        lambda s: {"state": 1, "model": {"state_dict": s}},
        lambda s: {"model_state": s, "ema": {k: v * 0 for k, v in s.items()}},
        lambda s: {"ema": s, "epoch": 1},
        lambda s: {f"module.{k}": v for k, v in s.items()},
        lambda s: {f"_orig_mod.module.{k}": v for k, v in s.items()},
        lambda s: {f"module.model.{k}": v for k, v in s.items()},
        lambda s: {f"module._orig_mod.{k}": v for k, v in s.items()},
        lambda s: {"state_dict": {f"model.{k}": v for k, v in s.items()} | {"criterion.weight": torch.zeros(3)}},
        lambda s: {f"student.{k}": v for k, v in s.items()} | {f"teacher.{k}": v * 0 for k, v in s.items()},
        lambda s: {k: v for k, v in s.items() if "num_batches_tracked" not in k},
        lambda s: {"model": s, "opt": argparse.Namespace(lr=0.05), "best_acc": np.float64(71.2)},
        lambda s: {"model": s, "acc": np.float32(1), "step": np.int64(3)},
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_holders_and_prefixes(wrap, zipped: bool, tmp_path: Path) -> None:
    a, b = net(0), net(1)
    given = wrap(a.state_dict())
    torch.save(given, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    notices = load_weights(b, tmp_path / "w.pth")
    assert same(a, b)
    assert bool(notices) == (not set(given) <= set(a.state_dict()))
    assert all(n.startswith("w.pth: ") for n in notices)


def test_names_that_are_the_models_own_stay(tmp_path: Path) -> None:
    a, b = (nn.ModuleDict({"model": net(i), "student": net(i + 1)}) for i in (0, 5))
    torch.save(a.state_dict(), tmp_path / "w.pt")
    assert load_weights(b, tmp_path / "w.pt") == []
    assert same(a, b)


# refusing what does not


def test_counts_what_does_not_fit_and_changes_nothing(tmp_path: Path) -> None:
    state = net().state_dict()
    other = {k: v for k, v in state.items() if "stage1.1" not in k or "num" in k}
    other |= {"fc.weight": torch.zeros(7, 4), "fc.bias": torch.zeros(7)} | {
        f"extra{i}": torch.zeros(1) for i in range(6)
    }
    torch.save(other, tmp_path / "w.pt")
    b = net(1)
    with pytest.raises(ModelError) as e:
        load_weights(b, tmp_path / "w.pt")
    text = str(e.value)
    assert "4 missing: features.stage1.1.weight, " in text
    assert "6 unexpected: extra0, extra1, extra2, extra3, extra4, ..." in text
    assert "2 of another shape: fc.weight (7, 4), not (3, 4), fc.bias (7,), not (3,)" in text
    assert "3 of 9 tensors fit" in text
    assert "--partial" in text
    assert len(text.splitlines()) <= 6
    assert e.value.exit_code == 4
    assert same(b, net(1))

    notices = load_weights(b, tmp_path / "w.pt", partial=True)
    assert torch.equal(b.features.stage1[0].weight, state["features.stage1.0.weight"])
    assert torch.equal(b.fc.weight, net(1).fc.weight)
    assert any("3 of 9" in n and "4 missing" in n for n in notices)


def test_partial_still_refuses_when_nothing_fits(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "w.pt")
    with pytest.raises(ModelError, match="0 of 9"):
        load_weights(net(), tmp_path / "w.pt", partial=True)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("beside", [Evil(), net()])
def test_objects_are_refused_and_never_run(
    beside: object, zipped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": net().state_dict(), "x": beside}, "w.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(RefusedError, match=r"posix\.mkdir|nt\.mkdir|potstill\.models\.cnn\.CNN") as e:
        load_weights(net(), "w.pt")
    assert e.value.exit_code == 7
    assert not Path("proof").exists()


def test_a_plain_pickle_is_refused(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    (tmp_path / "w.pkl").write_bytes(pickle.dumps({"a": Evil()}))
    with pytest.raises(RefusedError):
        load_weights(net(), tmp_path / "w.pkl")
    assert not recwarn.list


def good(folder: Path, name: str) -> bytes:
    path = folder / f"good{name}"
    if name == ".safetensors":
        save_weights(net(), path)
    else:
        torch.save(net().state_dict(), path, _use_new_zipfile_serialization=name == ".pt")
    return path.read_bytes()


@pytest.mark.parametrize("name", [".safetensors", ".pt", ".legacy"])
@pytest.mark.parametrize("keep", [0.02, 0.5, 0.99])
def test_truncated_files_are_damaged(name: str, keep: float, tmp_path: Path) -> None:
    content = good(tmp_path, name)
    path = tmp_path / f"cut{name}"
    path.write_bytes(content[: int(keep * len(content))])
    b = net(1)
    with pytest.raises(ModelError, match=r"damaged.*bytes, sha256 [0-9a-f]{16}"):
        load_weights(b, path)
    assert same(b, net(1))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "git-LFS pointer"),
        (b"\n<!DOCTYPE html><html><body>404</body></html>", "web page"),
        (b"<HTML><head></head></HTML>", "web page"),
        (b"hello, world, this is text", "neither"),
        (b"\x1f\x8b\x08\x00compressed", "neither"),
        ((1 << 62).to_bytes(8, "little") + b'{"a": 1}', "damaged: its header"),
        ((8).to_bytes(8, "little") + b"{not ok}", "damaged"),
        (b"PK\x03\x04not a zip", "damaged"),
    ],
)
@pytest.mark.parametrize("name", ["w.pt", "w.bin"])
def test_files_that_are_no_weights(content: bytes, says: str, name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match=says) as e:
        load_weights(net(), tmp_path / name)
    assert len(str(e.value).splitlines()) <= 6


@pytest.mark.parametrize("held", [[torch.zeros(1)], torch.zeros(2), {}, {"epoch": 3}, {"model": {"model": {}}}])
def test_files_without_a_state_dict(held: object, tmp_path: Path) -> None:
    torch.save(held, tmp_path / "w.pt")
    with pytest.raises(ModelError, match="holds"):
        load_weights(net(), tmp_path / "w.pt")


def test_a_file_that_holds_itself_ends(tmp_path: Path) -> None:
    loop: dict[str, object] = {}
    loop["model"] = loop
    torch.save(loop, tmp_path / "w.pt")
    with pytest.raises(PotstillError):
        load_weights(net(), tmp_path / "w.pt")


def test_missing_file_names_its_neighbour(tmp_path: Path) -> None:
    save_weights(net(), tmp_path / "student.safetensors")
    with pytest.raises(ModelError, match=r"no file .*studnt.*Did you mean .*student\.safetensors"):
        load_weights(net(), tmp_path / "studnt.safetensors")
    with pytest.raises(ModelError, match="no folder"):
        load_weights(net(), tmp_path / "nowhere" / "w.pt")
    with pytest.raises(ModelError, match="is a folder"):
        load_weights(net(), tmp_path)


def test_ordered_dict_metadata_does_not_matter(tmp_path: Path) -> None:
    old: OrderedDict[str, Tensor] = OrderedDict(net().state_dict())
    torch.save(old, tmp_path / "w.pt")
    b = net(1)
    load_weights(b, tmp_path / "w.pt")
    assert same(b, net())
