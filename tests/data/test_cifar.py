"""The CIFAR archives, written as Python 2 wrote them, with 20 pictures a batch."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
import pickle
import struct
import tarfile
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from potstill.data import cifar as module
from potstill.data import load
from potstill.data.cifar import ARCHIVES
from potstill.errors import ConfigError, DataError, MachineError, RefusedError


class _Python2(pickle._Pickler):  # type: ignore[name-defined, misc]
    """Writes bytes as Python 2 wrote its strings, and arrays under the module's name of that time."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)  # type: ignore[attr-defined]

    def save_string(self, text: str | bytes) -> None:
        content = text.encode() if isinstance(text, str) else text
        self.write(pickle.BINSTRING + struct.pack("<i", len(content)) + content)
        self.memoize(text)

    dispatch[bytes] = dispatch[str] = save_string

    def save_global(self, obj: Any, name: str | None = None) -> None:
        module = "numpy" if obj in (np.ndarray, np.dtype) else "numpy.core.multiarray"
        self.write(pickle.GLOBAL + f"{module}\n{name or obj.__name__}\n".encode())
        self.memoize(obj)

    dispatch[type] = dispatch[type(len)] = dispatch[type(lambda: 0)] = save_global


def old(content: Any) -> bytes:
    file = io.BytesIO()
    _Python2(file, protocol=2).dump(content)
    return file.getvalue()


def members(name: str, dump: Any = old) -> dict[str, bytes]:
    archive, rng = ARCHIVES[name], np.random.default_rng(0)
    contents: dict[str, Any] = {}
    for member in (*archive.train, *archive.test):
        contents[member] = {
            "data": rng.integers(0, 256, (20, 3072), dtype=np.uint8),
            "filenames": [f"{i}.png" for i in range(20)],
        }
        for label, (key, names) in archive.labels.items():
            classes = 10 if label == "label" else 5 if label == "fine" else 2
            contents[member][key] = [i % classes for i in range(20)]
            contents.setdefault(archive.meta, {})[names] = [f"{label}{c}" for c in range(classes)]
    return {k: dump(v) for k, v in contents.items()}


def pack(path: Path, name: str, contents: dict[str, bytes], prefix: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as tar:
        for member, content in contents.items():
            info = tarfile.TarInfo(f"{ARCHIVES[name].folder if prefix is None else prefix}/{member}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def test_the_old_pickles_are_as_python_2_wrote_them() -> None:
    content = members("cifar10")["data_batch_1"]
    assert b"cnumpy.core.multiarray\n_reconstruct" in content
    assert b"_codecs" not in content
    assert pickle.loads(content, encoding="latin1")["data"].shape == (20, 3072)


@pytest.mark.parametrize("dump", [old, pickle.dumps, lambda x: pickle.dumps(x, 2)])
def test_cifar10_archive(tmp_path: Path, dump: Any) -> None:
    contents = members("cifar10", dump)
    pack(tmp_path / "cifar-10-python.tar.gz", "cifar10", contents)
    for path in (tmp_path, tmp_path / "cifar-10-python.tar.gz"):
        s = load(f"cifar10:{path}")
        assert (len(s.train), len(s.val), len(s.test)) == (90, 10, 20)
        assert s.classes == [f"label{i}" for i in range(10)]
        assert s.shape == (3, 32, 32)
        blocks = np.concatenate(
            [pickle.loads(contents[m], encoding="latin1")["data"] for m in ARCHIVES["cifar10"].train]
        )
        assert np.array_equal(s.train.images, blocks.reshape(-1, 3, 32, 32)[s.train.ids])
        assert np.array_equal(s.train.labels, s.train.ids % 20 % 10)
        last = pickle.loads(contents["test_batch"], encoding="latin1")["data"]
        assert np.array_equal(s.test.images, last.reshape(-1, 3, 32, 32))


def test_cifar100_folder_with_fine_and_coarse_labels(tmp_path: Path) -> None:
    for member, content in members("cifar100").items():
        (tmp_path / "cifar-100-python").mkdir(exist_ok=True)
        (tmp_path / "cifar-100-python" / member).write_bytes(content)
    fine = load(f"cifar100:{tmp_path}")
    assert fine.classes == [f"fine{i}" for i in range(5)]
    coarse = load(f"cifar100:{tmp_path}/cifar-100-python?label=coarse")
    assert coarse.classes == ["coarse0", "coarse1"]
    assert np.array_equal(coarse.test.labels, np.arange(20) % 2)
    with pytest.raises(DataError, match="no labels 'middle'"):
        load(f"cifar100:{tmp_path}?label=middle")
    with pytest.raises(ConfigError, match="no option"):
        load(f"cifar10:{tmp_path}?label=coarse")


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    contents = members("cifar10")
    contents["data_batch_3"] = pickle.dumps({"data": Evil(tmp_path / "pwned")}, 2)
    pack(tmp_path / "cifar-10-python.tar.gz", "cifar10", contents)
    with pytest.raises(RefusedError, match=r"data_batch_3: a pickle asks for (posix|nt)\.mkdir"):
        load(f"cifar10:{tmp_path}")
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("call", ["ndarray", "frombuffer", "load"])
def test_numpy_gives_no_other_way_in(tmp_path: Path, call: str) -> None:
    contents = members("cifar10")
    contents["data_batch_1"] = f"cnumpy\n{call}\n((I1000000000000\nttR.".encode()  # numpy.call((10**12,))
    pack(tmp_path / "cifar-10-python.tar.gz", "cifar10", contents)
    with pytest.raises((RefusedError, DataError), match=f"numpy.{call}|cannot be read: TypeError"):
        load(f"cifar10:{tmp_path}")


def test_members_with_other_paths_are_not_read_and_nothing_is_written(tmp_path: Path) -> None:
    home = tmp_path / "home"
    pack(home / "cifar-10-python.tar.gz", "cifar10", members("cifar10"), prefix="../../cifar-10-batches-py")
    with pytest.raises(DataError, match=r"the archive lacks batches\.meta, data_batch_1"):
        load(f"cifar10:{home}")
    pack(home / "cifar-10-python.tar.gz", "cifar10", members("cifar10"))
    load(f"cifar10:{home}")
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["cifar-10-python.tar.gz"]


def test_a_member_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pack(tmp_path / "cifar-10-python.tar.gz", "cifar10", members("cifar10"))
    monkeypatch.setattr(module, "LIMIT", 1000)
    with pytest.raises(RefusedError, match="more than any member"):
        load(f"cifar10:{tmp_path}")


def test_broken_archives(tmp_path: Path) -> None:
    file = pack(tmp_path / "cifar-10-python.tar.gz", "cifar10", members("cifar10"))
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"not a whole archive|cannot be read"):
        load(f"cifar10:{tmp_path}")
    file.write_text("<html>not found</html>")
    with pytest.raises(DataError, match="not a whole archive"):
        load(f"cifar10:{tmp_path}")
    contents = members("cifar10")
    contents["test_batch"] = contents["test_batch"][:100]
    pack(file, "cifar10", contents)
    with pytest.raises(DataError, match="test_batch: cannot be read"):
        load(f"cifar10:{tmp_path}")
    contents["test_batch"] = old({"data": np.zeros((20, 3072), np.uint8)})
    pack(file, "cifar10", contents)
    with pytest.raises(DataError, match="not the cifar10 archive"):
        load(f"cifar10:{tmp_path}")


def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, md5: str | None = None) -> None:
    """Let the archive's address be a folder of this machine."""
    file = pack(tmp_path / "server" / "cifar-10-python.tar.gz", "cifar10", members("cifar10"))
    md5 = md5 or hashlib.md5(file.read_bytes()).hexdigest()
    there = dataclasses.replace(ARCHIVES["cifar10"], md5=md5, url=file.parent.as_uri() + "/")
    monkeypatch.setitem(ARCHIVES, "cifar10", there)


def test_nothing_is_downloaded_unasked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("went to the network")

    monkeypatch.setattr(module.urllib.request, "urlopen", never)
    with pytest.raises(DataError, match="no such file or folder") as error:
        load(f"cifar10:{tmp_path}/nowhere")
    assert "data.download=true" in str(error.value)
    with pytest.raises(DataError, match=r"cifar-10-python\.tar\.gz is not in"):
        load(f"cifar10:{tmp_path}")
    assert not (tmp_path / "nowhere").exists()


def test_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served(tmp_path, monkeypatch)
    s = load(f"cifar10:{tmp_path}/new", download=True)
    assert len(s.train) == 90
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["cifar-10-python.tar.gz"]
    (tmp_path / "server" / "cifar-10-python.tar.gz").unlink()
    assert len(load(f"cifar10:{tmp_path}/new", download=True).train) == 90  # it is there: nothing is fetched


def test_a_download_with_another_content_is_thrown_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served(tmp_path, monkeypatch, md5="0" * 32)
    with pytest.raises(MachineError, match="md5"):
        load(f"cifar10:{tmp_path}/new", download=True)
    assert list((tmp_path / "new").iterdir()) == []
    (tmp_path / "server" / "cifar-10-python.tar.gz").unlink()
    with pytest.raises(MachineError, match="cannot download"):
        load(f"cifar10:{tmp_path}/new", download=True)
    assert list((tmp_path / "new").iterdir()) == []
