import json

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from potstill.cli import run
from potstill.compress.runtimes import open_artefact
from potstill.models import load_student

ALLOWED = ("--allowed-drop", "5")  # of 180 validation pictures: one is 0.6 points


@pytest.fixture(scope="module")
def int8(teacher_run, tmp_path_factory):
    pytest.importorskip("onnxslim")
    out = tmp_path_factory.mktemp("edge") / "net.onnx"
    assert (
        run(
            [
                "export",
                str(teacher_run),
                "--quantize",
                "int8",
                "--out",
                str(out),
                "--licence",
                "MIT",
                *ALLOWED,
                "--json",
            ]
        )
        == 0
    )
    return out


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("pictures") / "zero.png"
    large = np.kron(load_digits().images[0] * (255 / 16), np.ones((4, 4)))
    Image.fromarray(large.astype(np.uint8)).save(path)
    return path


def test_export_proves_the_file_and_leaves_nothing_else(int8, teacher_run, tmp_path, capsys):
    assert [p.name for p in int8.parent.iterdir()] == ["net.onnx"]
    said = open_artefact(int8).card
    assert (said["precision"], said["licence"], said["picture"]) == ("int8", "MIT", [1, 8, 8])
    assert said["preprocess"] == load_student(teacher_run).preprocess.to_json()
    out = tmp_path / "f.pt2"
    assert run(["export", str(teacher_run), "--out", str(out), "--json"]) == 0
    rows = {r["name"]: r for r in json.loads(capsys.readouterr().out)["artefacts"]}
    assert rows["student.pt2"]["val"]["drop"] == 0
    assert rows["student.pt2"]["test"]["agreement"] == 1
    assert rows["student.pt2"]["bytes"] == out.stat().st_size


def test_bench_measures_files_and_runs(int8, teacher_run, capsys):
    assert run(["bench", str(int8), str(teacher_run), "--repeats", "5", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [r["runtime"] for r in rows] == ["onnxruntime", "torch"]
    assert rows[0]["bytes"] == int8.stat().st_size
    assert rows[0]["speedup"] == 1
    assert rows[1]["speedup"] == pytest.approx(rows[0]["cpu_ms"] / rows[1]["cpu_ms"])
    assert run(["bench", str(int8)]) == 0
    assert "onnxruntime" in capsys.readouterr().out


def test_predict_says_the_same_by_the_file_and_by_the_run(int8, teacher_run, picture, capsys):
    said = []
    for place in (int8, teacher_run):
        assert run(["predict", str(place), str(picture), "--top", "3", "--json"]) == 0
        out, err = capsys.readouterr()
        said.append(json.loads(out)[0]["top"])
        assert "32x32, 1 channel(s), scaled and cut to what the net takes: 8x8, 1 channel(s)" in err
    assert len(said[0]) == 3
    assert said[0][0]["class"] == said[1][0]["class"] == "0"
    assert said[0][0]["probability"] == pytest.approx(said[1][0]["probability"], abs=0.1)


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["export", "RUN", "--to", "onix"], 2, "Did you mean 'onnx'"),
        (["export", "RUN", "--quantize", "int88"], 2, "Did you mean 'int8'"),
        (["export", "RUN", "--out", "OUT/net.onnx", "--to", "pt2"], 2, "must end in .pt2"),
        (["export", "RUN", "--train", "5"], 2, "--quantize"),
        (["export", "OUT/nowhere"], 4, "no folder"),
        (["bench", "OUT/nowhere.onnx"], 4, "no file"),
        (["predict", "FILE", "OUT/none.png"], 4, "no file"),
        (["predict", "FILE", "FILE"], 3, "cannot be read as a picture"),
        (["predict", "PICTURE", "PICTURE"], 4, "is no artefact"),
    ],
)
def test_mistakes_are_told_without_a_traceback(int8, teacher_run, picture, tmp_path, capsys, arguments, code, says):
    places = {"RUN": teacher_run, "OUT": tmp_path, "FILE": int8, "PICTURE": picture}
    for name, place in places.items():
        arguments = [a.replace(name, str(place)) if a.startswith(name) else a for a in arguments]
    assert run(arguments) == code
    error = capsys.readouterr().err
    assert says in error
    assert "Traceback" not in error
    assert not list(tmp_path.iterdir())


def test_too_bad_a_file_is_not_written(teacher_run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("potstill.compress.doubt.LEVEL", 1.0)  # it loses an answer or two, which else is no proof
    out = tmp_path / "net.onnx"
    arguments = ["export", str(teacher_run), "--quantize", "int8", "--allowed-drop", "0", "--out", str(out)]
    assert run(arguments) == 4
    assert "to blame" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
