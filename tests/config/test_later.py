"""What a configuration says of a sweep is held to the schema, each fault in its place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from potstill.config.load import resolve
from potstill.errors import ConfigError

NETS = {"teacher.model": "resnet14", "student.model": "resnet8"}


def resolved(folder: Path, text: str, *overrides: str) -> Any:
    path = folder / "my.yaml"
    path.write_text(text)
    return resolve([str(path)], list(overrides), NETS).config


def problems(folder: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        resolved(folder, text)
    return str(caught.value)


def test_a_sweep_is_read_with_its_defaults(tmp_path: Path) -> None:
    config = resolved(tmp_path, "sweep:\n  over: {optim.lr: 0.01..0.5, method: [kd, dkd]}\n", "sweep.trials=7")
    assert config.sweep.model_dump() == {
        "trials": 7,
        "over": {"optim.lr": "0.01..0.5", "method": ["kd", "dkd"]},
        "against": None,
        "stop": True,
        "recover": None,
        "workers": 1,
        "together": 1,
        "launcher": None,
    }
    assert resolve([], [], NETS).config.sweep is None


def test_ray_is_read_from_yaml_and_from_the_command(tmp_path: Path) -> None:
    config = resolved(
        tmp_path, "launcher: ray\nray: {resources: {cpu: 4, gpu: 0.5}, address: head:6379}\n", "devices=2"
    )
    assert (config.launcher, config.ray.address, config.ray.failures) == ("ray", "head:6379", 3)
    assert config.ray.resources == {"cpu": 4, "gpu": 0.5}
    assert resolve([], ["ray.resources=cpu=2,gpu=1"], NETS).config.ray.resources == {"cpu": 2, "gpu": 1}
    for text, says in (
        ("launcher: rai", "launcher: must be one of ray"),
        ("ray: {resources: cpu}", "ray.resources: must be names and numbers such as cpu=4,gpu=1"),
        ("ray: {resources: {cpu: -1}}", "ray.resources.cpu: must be at least 0"),
        ("ray: {adress: auto}", "Did you mean 'address'?"),
    ):
        assert says in problems(tmp_path, text)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("  againt: macs", "my.yaml:2:3: sweep.againt: no such key. Did you mean 'against'?"),
        ("  against: flops", "my.yaml:2:3: sweep.against: must be one of parameters, macs, bytes, latency"),
        ("  trials: 0", "my.yaml:2:3: sweep.trials: must be at least 1, got 0"),
        ("  over: {losses.kd.temprature: 1..20}", "my.yaml:2:10: sweep.over.losses.kd.temprature: no such key."),
        ("  over: {losses: {kd: {temprature: 1..20}}}", "my.yaml:2:24: sweep.over.losses.kd.temprature: no such key."),
        ("  over: {optim.lr: -1..1}", "sweep.over.optim.lr: must be greater than 0, got -1"),
        ("  over: {optim.lr: 5..1}", "sweep.over.optim.lr: the range is empty"),
        ("  over: {epochs: [2, ten]}", "sweep.over.epochs: must be a whole number, got 'ten'"),
        ("  over: {method: [kd, dits]}", "sweep.over.method: no such method: 'dits'. Did you mean 'dist'?"),
        ("  over: {prune: 0..1}", "sweep.over.prune: is a share of the channels"),
        ("  over: {student: [a, b], student.model: [c, d]}", "sweep.over.student.model: student.model is varied twice"),
    ],
)
def test_what_is_wrong_is_told_in_its_place(tmp_path: Path, line: str, says: str) -> None:
    assert says in problems(tmp_path, f"sweep:\n{line}\n")


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    said = problems(tmp_path, "sweep:\n  over:\n    optim.lr: 5..1\n    losses.kd.weight: [1, -1]\n")
    assert "2 problems" in said
    assert "my.yaml:3:5" in said
    assert "my.yaml:4:5: sweep.over.losses.kd.weight: must be at least 0, got -1" in said


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("  prune: {rati: 0.5}", "my.yaml:2:11: compress.prune.rati: no such key. Did you mean 'ratio'?"),
        ("  prune: {macs: 0.5, importance: taylr}", "must be one of magnitude, bn, taylor, got 'taylr'"),
        ("  prune: {macs: half}", "compress.prune.macs: must be a number, got 'half'"),
        ("  lowrank: {ratio: 0.5, from: svd}", "compress.lowrank.from: no such key. Did you mean 'form'?"),
        ("  sparsify: {patern: '2:4'}", "compress.sparsify.patern: no such key. Did you mean 'pattern'?"),
        ("  recover: {epoch: 5}", "compress.recover.epoch: no such key. Did you mean 'epochs'?"),
        (
            "  recover: {method: dits}",
            "my.yaml:2:13: compress.recover.method: no such method: 'dits'. Did you mean 'dist'?",
        ),
        (
            "  recover: {settings: {losses.kd.temprature: 2}}",
            "compress.recover.settings: losses.kd.temprature: no such key.",
        ),
        ("  quantize: {precision: int8, trian: 300}", "compress.quantize.trian: no such key. Did you mean 'train'?"),
        ("  quantize: int9", "my.yaml:2:3: compress.quantize: must be one of int8, int4, int8-weights"),
        ("  quantize: {keep: fc}", "compress.quantize.keep: must be a list, got 'fc'"),
        ("  export: onnx,tflite", "my.yaml:2:3: compress.export: must be one of onnx, pt2, pte, got 'tflite'"),
        ("  export: {to: [onnx, pt3]}", "compress.export.to: must be one of onnx, pt2, pte, got 'pt3'"),
        ("  verify: {allowed: 1}", "compress.verify.allowed: no such key. Did you mean 'allowed_drop'?"),
    ],
)
def test_what_is_wrong_inside_a_stage_of_compress(tmp_path: Path, line: str, says: str) -> None:
    assert says in problems(tmp_path, f"compress:\n{line}\n")


def test_every_setting_of_every_stage_is_taken(tmp_path: Path) -> None:
    """The fields that are read from the source are those of the classes, and their defaults are valid where they are plain."""
    import dataclasses

    from potstill.compress.stage import STAGES, make
    from potstill.config.stages import FIRST, fields_model

    given: dict[str, Any] = {"prune": {"ratio": 0.5}, "lowrank": {"ratio": 0.5}, "sparsify": {"pattern": "2:4"}}
    for stage, spec in STAGES.items():
        made = make(stage, **given.get(stage, {}))
        model = fields_model(spec)
        assert [*model.model_fields] == [f.name for f in dataclasses.fields(made)]
        assert not [k for k, f in model.model_fields.items() if f.annotation is Any and (stage, k) != ("export", "to")]
        model.model_validate({k: v for k, v in dataclasses.asdict(made).items() if k != "opset"})
    assert {*FIRST} == {*STAGES} - {"recalibrate"}
