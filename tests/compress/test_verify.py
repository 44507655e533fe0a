import json
from types import SimpleNamespace

import pytest
import torch

from potstill.compress import posttrain
from potstill.compress.export import Export
from potstill.compress.formats import write_onnx
from potstill.compress.guards import checked_onnx
from potstill.compress.program import card
from potstill.compress.quantize import Quantize
from potstill.compress.runtimes import open_artefact
from potstill.compress.verify import FLOAT_DRIFT, Verify, measure, refuse
from potstill.data import Stream
from potstill.errors import ConfigError, MachineError, ModelError


@pytest.fixture(scope="module")
def ready(case):
    return SimpleNamespace(
        splits=case.splits, eval_stream=lambda split: Stream(getattr(case.splits, split), 256, shuffle=False)
    )


@pytest.fixture(scope="module")
def rows(case, ready, float_onnx):
    model = checked_onnx(float_onnx)
    coarse = posttrain.weights_only(model, 4, per_channel=False)
    for i in coarse.graph.initializer:  # a fault of an export: a layer's scale is wrong
        if i.name == "net.second.0.weight.scale":
            i.raw_data = (torch.frombuffer(bytearray(i.raw_data), dtype=torch.float32) * 6).numpy().tobytes()
    bad = write_onnx(coarse, case.folder / "bad.onnx", card(case.net, "int4-weights"))
    return measure(case.net, [open_artefact(float_onnx), open_artefact(bad)], ready, case.net, repeats=3)


def test_an_artefact_is_held_against_the_float_student(rows, case):
    student, good, bad = rows
    assert [r["name"] for r in rows] == ["student", "float.onnx", "bad.onnx"]
    assert student["test"]["agreement"] == good["test"]["agreement"] == 1
    assert good["val"]["drop"] == 0
    assert good["val"]["drift"] < FLOAT_DRIFT
    assert bad["val"]["drop"] == pytest.approx(100 * (student["val"]["top1"] - bad["val"]["top1"]))
    worst = bad["val"]["worst_class"]
    assert worst["class"] in case.splits.classes
    assert worst["drop"] > bad["val"]["drop"] > 2
    assert good["bytes"] == (case.folder / "float.onnx").stat().st_size
    assert good["latency_ms"] > 0
    json.dumps(rows)


def test_too_large_a_drop_is_refused_with_the_layers_to_blame(rows, case, ready):
    refuse(rows[1], 0.0, case.net, ready)
    with pytest.raises(
        ModelError,
        match=r"bad\.onnx loses .* points .* 180 validation pictures, 1 are allowed; (first\.0|second\.0|fc) is to blame",
    ) as raised:
        refuse(rows[2], 1.0, case.net, ready)
    assert all(path in str(raised.value) for path in ("first.0", "second.0", "fc"))
    refuse(rows[2], 100.0, case.net, ready)


def test_a_float_file_that_says_something_else_is_refused(rows, case, ready):
    with pytest.raises(ModelError, match="says something else"):
        refuse({**rows[2], "precision": "float32"}, 100.0, case.net, ready)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Quantize("int9"), "Did you mean 'int8'"),
        (lambda: Quantize("bf16", train=10), "for int8 and int4"),
        (lambda: Quantize(target="amd"), "x86 or arm"),
        (lambda: Quantize(lr=0), "above 0"),
        (lambda: Export("onx"), "Did you mean 'onnx'"),
        (lambda: Verify(-1), "0..100"),
    ],
)
def test_settings_out_of_range(make, says):
    with pytest.raises(ConfigError, match=says):
        make()


def test_a_missing_package_names_the_extra(monkeypatch):
    import sys

    from potstill.compress.extra import need

    monkeypatch.setitem(sys.modules, "onnxslim", None)
    with pytest.raises(MachineError, match=r"potstill\[edge\]"):
        need("onnxslim")


def test_a_drop_that_chance_does_is_not_refused(rows, case, ready):
    few = {**rows[2], "val": {**rows[2]["val"], "drop": 1.7, "worse": 7, "better": 4, "chance": 0.27}}
    refuse(few, 1.0, case.net, ready)
    assert rows[2]["val"]["chance"] < 0.01
    assert rows[1]["val"] | {"worse": 0, "better": 0, "chance": 1.0} == rows[1]["val"]
