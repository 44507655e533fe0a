import json
import pickle
import zipfile
from pathlib import Path

import pytest

from potstill.compress import guards
from potstill.compress.runtimes import open_artefact
from potstill.errors import ModelError, RefusedError

MARK = "ran-code"


class Runs:
    """Unpickling it makes a file."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self):
        return (Path.touch, (self.place,))


def rewritten(source: Path, target: Path, change) -> Path:
    """The archive with members changed by ``change(name, content)``, which may add some: a dict."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            content = change(name, old.read(name))
            for n, c in (content if isinstance(content, dict) else {name: content}).items():
                new.writestr(n, c)
    return target


def in_program(old: str, new: str):
    return lambda name, content: content.replace(old.encode(), new.encode()) if name.endswith("model.json") else content


def test_a_whole_archive_is_taken(float_pt2, tmp_path):
    same = rewritten(float_pt2, tmp_path / "same.pt2", lambda name, content: content)
    assert guards.checked_pt2(same)["classes"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (in_program("torch.ops.aten.relu.default", "torch.hub.load"), "torch.hub.load"),
        (in_program("torch.ops.aten.relu.default", "_operator.__import__"), "__import__"),
        (in_program("Symbol(", "__import__('os').system('true') or Symbol("), "__import__"),
        (in_program('"guards_code": []', '"guards_code": ["x"]'), "Python code"),
        (
            lambda n, c: c.replace(b'"use_pickle": false', b'"use_pickle": true', 1) if "weights_config" in n else c,
            "unpickling",
        ),
        (
            lambda n, c: {n: c, "archive/data/aotinductor/model.so": b"\x7fELF"} if n.endswith("byteorder") else c,
            "model.so",
        ),
        (
            lambda n, c: {n: c, "archive/data/constants/custom_obj_0": b"x"} if n.endswith("byteorder") else c,
            "custom_obj",
        ),
    ],
)
def test_an_archive_that_could_run_code_is_refused(float_pt2, tmp_path, change, says):
    bad = rewritten(float_pt2, tmp_path / "bad.pt2", change)
    with pytest.raises(RefusedError, match=says):
        open_artefact(bad)


def test_a_pickle_in_an_archive_is_never_run(float_pt2, tmp_path):
    mark = tmp_path / MARK
    evil = pickle.dumps(Runs(mark))
    bad = rewritten(float_pt2, tmp_path / "bad.pt2", lambda n, c: evil if "sample_inputs" in n else c)
    with pytest.raises(RefusedError, match="sample_inputs"):
        open_artefact(bad)
    weights = rewritten(
        float_pt2,
        tmp_path / "weights.pt2",
        lambda n, c: (
            c.replace(b'"use_pickle": false', b'"use_pickle": true') if "config" in n else evil if "weight_" in n else c
        ),
    )
    with pytest.raises(RefusedError, match="unpickling"):
        open_artefact(weights)
    assert not mark.exists()
    pickle.loads(evil)  # it would have
    assert mark.exists()


def test_damaged_files(float_onnx, float_pt2, tmp_path):
    for source in (float_onnx, float_pt2):
        half = tmp_path / f"half{source.suffix}"
        half.write_bytes(source.read_bytes()[: source.stat().st_size // 2])
        with pytest.raises(ModelError):
            open_artefact(half)
        empty = tmp_path / f"empty{source.suffix}"
        empty.touch()
        with pytest.raises(ModelError, match="0 bytes"):
            open_artefact(empty)
        page = tmp_path / f"page{source.suffix}"
        page.write_text("<!doctype html><title>login</title>")
        with pytest.raises(ModelError):
            open_artefact(page)
    pte = tmp_path / "x.pte"
    pte.write_bytes(b"not executorch")
    with pytest.raises(ModelError, match="ExecuTorch"):
        open_artefact(pte)


def test_names_that_are_wrong(float_onnx, tmp_path):
    with pytest.raises(ModelError, match="Did you mean"):
        open_artefact(float_onnx.with_name("flaot.onnx"))
    text = tmp_path / "net.onx"
    text.write_text("something here")
    with pytest.raises(ModelError, match=r"Did you mean '\.onnx'"):
        open_artefact(text)


def test_too_large_a_file_is_refused_unread(tmp_path):
    huge = tmp_path / "huge.onnx"
    with open(huge, "wb") as file:
        file.truncate(guards.LARGEST + 1)
    with pytest.raises(RefusedError, match="at most"):
        open_artefact(huge)


@pytest.mark.parametrize("place", ["../secret.bin", "weights.bin"])
def test_weights_in_other_files_are_refused(float_onnx, tmp_path, place):
    import onnx

    (tmp_path / "in").mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(5000))
    (tmp_path / "in" / "weights.bin").write_bytes(bytes(5000))
    model = onnx.load(float_onnx)
    tensor = model.graph.initializer[-1]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=place)
    path = tmp_path / "in" / "net.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(RefusedError, match="other files"):
        open_artefact(path)


def test_operators_of_strange_libraries_are_refused(float_onnx, tmp_path):
    import onnx

    model = onnx.load(float_onnx)
    model.opset_import.add(domain="evil.ops", version=1)
    path = tmp_path / "strange.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(RefusedError, match=r"evil\.ops"):
        open_artefact(path)


def test_a_damaged_card(float_onnx, tmp_path):
    import onnx

    model = onnx.load(float_onnx)
    for i, said in enumerate(
        ("{", json.dumps({"classes": [1], "picture": [1, 8, 8], "precision": "int8"}), "[" * 100_000)
    ):
        onnx.helper.set_model_props(model, {"potstill": said})
        path = tmp_path / f"card{i}.onnx"
        path.write_bytes(model.SerializeToString())
        with pytest.raises(ModelError, match="says of itself"):
            open_artefact(path)
