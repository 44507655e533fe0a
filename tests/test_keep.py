"""Runs whose teacher is asked once for each view."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import potstill
from potstill import adopt
from potstill.cache import Shelf, Store
from potstill.config.load import resolve
from potstill.errors import ConfigError, ModelError
from potstill.keep import forecast
from potstill.meant import losses_of
from potstill.prepare import prepare
from potstill.ready import Ready
from potstill.taps import Frozen

NET = """from torch import nn
def make(num_classes, in_channels=1):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, num_classes))
"""  # no batch norm: its statistics are those of each process's own samples


def distil(teacher: Path, out: Path, name: str, data: Any = "digits", **settings: Any) -> Any:
    settings = {"method": "at+kd", "epochs": 3, "control": False, "track": [], "quiet": True, **settings}
    return potstill.distill(str(teacher), "zoo:cnn(widths=(4, 8))", data, out=str(out), name=name, **settings)


def weights(run: Any) -> dict[str, Any]:
    return load_file(run.path / "student.safetensors")


def journal(run: Any) -> list[str]:
    return (run.path / "control-s0" / "metrics.jsonl").read_text().splitlines()


def test_a_run_fills_its_cache_and_the_next_one_does_not_ask(
    teacher_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = {"views": 2, "dir": str(tmp_path / "c")}
    asked = []
    forward = Frozen.forward

    def counted(self: Frozen, x: Any) -> Any:
        asked.append(len(x))
        return forward(self, x)

    monkeypatch.setattr(Frozen, "forward", counted)
    first = distil(teacher_run, tmp_path, "first", cache=cache, control=True)
    (row,) = Shelf(tmp_path / "c").rows()
    assert row["finished"]
    assert row["views"] == 2
    assert "logits" in row["spots"]
    assert len(row["spots"]) > 1
    filling = sum(asked)
    assert filling >= 2 * row["samples"]
    asked.clear()
    second = distil(teacher_run, tmp_path, "second", cache=cache)
    probes = 3 * (8 + 8 + 4 + 8)  # what a preflight asks about a few pictures; 32 are verified
    assert sum(asked) <= probes + 32, "nothing in the rehearsal, nothing in the training"
    text = "\n".join(second.facts["preflight"])
    assert "100 % there" in text
    assert "32 of its records are what the teacher says now" in text
    assert "the teacher does not run" in text
    assert ", 0 % there; saves 33 % of the teacher's work" in "\n".join(first.facts["preflight"])
    monkeypatch.undo()
    plain = distil(teacher_run, tmp_path / "apart", "plain", control=True)  # controls of one folder are shared
    alone = [[json.loads(row)["train"] for row in journal(run)] for run in (first, plain)]
    assert len(alone[0]) == 3
    assert alone[0] == alone[1], "the student alone is not kept to the teacher's few views"
    a, b = weights(first), weights(second)
    assert all((a[k] == b[k]).all() for k in a)


def look(teacher: Path | str, cache: Any, world: int = 1, **flags: Any) -> str:
    """What the preflight of a run says of its cache."""
    given = {
        "teacher.model": str(teacher),
        "student.model": "zoo:cnn(widths=(4, 8))",
        "method": "at+kd",
        "cache": cache,
    }
    ready = prepare(resolve([], [], {**given, **flags}, "distill").config)
    built = ready.build(ready.student(0), losses_of(ready.config), ready.teacher)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(ready.fabric), "world_size", world)
        return "\n".join(forecast(ready, [(built.scheme, 3)]))


def test_a_finished_cache_serves_one_teacher_one_augmentation_one_precision(
    teacher_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = {"views": 1, "dir": str(tmp_path / "c")}
    assert "2 processes fill it together" in look(teacher_run, cache, world=2)
    monkeypatch.setattr(sys.modules["potstill.cache.key"], "fingerprint", lambda net: "the same")
    distil(teacher_run, tmp_path, "first", cache=cache, epochs=1)
    assert "does not run" in look(teacher_run, cache, world=2)
    assert ", 0 % there" in look(teacher_run, cache, **{"data.augment.pad": 2})
    assert ", 0 % there" in look(teacher_run, cache, **{"losses.at.p": 3.0})
    assert ", 0 % there" in look(teacher_run, cache, **{"teacher.speed": "fast"})
    save_file(
        {k: 1.5 * v for k, v in load_file(teacher_run / "student.safetensors").items()}, tmp_path / "t.safetensors"
    )
    other = {"teacher.weights": str(tmp_path / "t.safetensors"), "allow_weak_teacher": True}
    with pytest.raises(ModelError, match="not of this teacher"):
        look("zoo:cnn(widths=(12, 24))", cache, **other)
    monkeypatch.undo()
    assert ", 0 % there" in look("zoo:cnn(widths=(12, 24))", cache, **other)


def test_what_a_teacher_says_of_validation_and_test_pictures_is_kept_too(
    teacher_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    measure = Ready.measure
    monkeypatch.setattr(
        Ready, "measure", lambda self, net, split, *a: asked.append(split) or measure(self, net, split, *a)
    )

    def ready(teacher: Any = teacher_run, **flags: Any) -> tuple[Ready, int]:
        adopt._MEASURED.clear()  # as in another process
        asked.clear()
        cache = {"dir": str(tmp_path / "c")}
        given = {"teacher.model": str(teacher), "student.model": "zoo:cnn", "cache": cache, **flags}
        return prepare(resolve([], [], given, "distill").config), len(asked)

    first, n = ready()
    assert n == 2
    second, n = ready(method="at", epochs=7)
    assert n == 0
    assert second.teacher_measures == first.teacher_measures
    assert {*second.teacher_logits} == {"val", "test"}
    assert all(torch.equal(second.teacher_logits[s], first.teacher_logits[s]) for s in first.teacher_logits)
    assert ready(cache=False)[1] == 2
    assert ready(**{"data.val": 0.2})[1] == 2
    assert ready(**{"teacher.mean": [0.5], "teacher.std": [0.3], "allow_weak_teacher": True})[1] == 2
    halved = {k: 0.5 * v for k, v in load_file(teacher_run / "student.safetensors").items()}
    save_file(halved, tmp_path / "t.safetensors")
    other = {"teacher.weights": str(tmp_path / "t.safetensors"), "allow_weak_teacher": True}
    assert ready("zoo:cnn(widths=(12, 24))", **other)[1] == 2
    assert ready("zoo:cnn(widths=(12, 24))", **other)[1] == 0


def test_of_ab_a_bit_a_neuron_is_kept_of_at_its_attention_maps(teacher_run: Path, tmp_path: Path) -> None:
    distil(teacher_run, tmp_path, "x", method="ab", epochs=2, cache={"views": 1, "dir": str(tmp_path / "c")})
    (row,) = Shelf(tmp_path / "c").rows()
    assert row["spots"] == {"ab:0": "signs", "ab:1": "signs"}
    assert ", 160 B each" in look(teacher_run, {"views": 1, "dir": str(tmp_path / "c")}, method="at"), "2 * (64 + 16)"


def test_maps_that_would_take_too_much_are_refused_with_their_size(teacher_run: Path, tmp_path: Path) -> None:
    cache = {"views": 2, "dir": str(tmp_path / "c"), "limit": 0.001}
    with pytest.raises(ConfigError, match=r"would take \d.* MB, allowed are 1 MB; .*stage1 1.54 kB") as error:
        distil(teacher_run, tmp_path, "x", method="vid", cache=cache)
    assert "cache.limit" in str(error.value)
    assert not list((tmp_path / "c").rglob("records.bin"))


def test_blended_pictures_are_refused_before_anything_runs(teacher_run: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"mixup and cutmix blend .*\n*.*data\.augment\.mixup=0 data\.augment\.cutmix=0"
    ):
        distil(teacher_run, tmp_path, "x", cache=True, data={"source": "digits", "augment": {"mixup": 0.2}})


def torchrun(cwd: Path, *arguments: str) -> subprocess.Popen[bytes]:
    launcher = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "potstill",
    ]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([*launcher, *arguments], cwd=cwd, env=env, start_new_session=True)


@pytest.mark.slow
def test_two_processes_fill_a_cache_while_they_train_though_one_is_killed(teacher_run: Path, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(NET)
    given = ["--data", "digits", "--teacher", str(teacher_run), "--student", "net.py:make", "--device", "cpu"]
    trained = ["distill", *given, "--no-control", "track=[]", "data.augment=none", "--epochs", "6"]
    asked = ["cache={views: 2, dir: c}", "--name"]  # without augmentation both views are the picture: live is the same
    assert torchrun(tmp_path, *trained, "--name", "live").wait(300) == 0
    assert torchrun(tmp_path, *trained, *asked, "kept").wait(300) == 0
    losses = [[row["train"]["loss"] for row in read(tmp_path / "runs" / name)] for name in ("live", "kept")]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    (row,) = Shelf(tmp_path / "c").rows()
    assert row["finished"]
    kept = Store.at(Shelf(tmp_path / "c").find(row["name"]))
    kept.verify()

    asked[0], long = "cache={views: 64, dir: d}", [*trained[:-1], "120", "save_steps=100"]
    begun = torchrun(tmp_path, *long, *asked, "torn")
    state, until = tmp_path / "runs/torn/student-s0/state/last.json", time.monotonic() + 200
    while not state.exists() and time.monotonic() < until:
        time.sleep(0.2)
    ranks = subprocess.run(["pgrep", "-P", str(begun.pid)], capture_output=True, text=True, check=True).stdout.split()
    os.kill(int(ranks[-1]), signal.SIGKILL)
    assert begun.wait(120) != 0
    (row,) = Shelf(tmp_path / "d").rows()
    assert 0 < row["filled"] < 1
    assert (
        torchrun(tmp_path, "cache", "build", *given, "data.augment=none", "--views", "64", "--dir", "d").wait(300) == 0
    )
    (row,) = Shelf(tmp_path / "d").rows()
    assert row["finished"]
    torn = Store.at(Shelf(tmp_path / "d").find(row["name"]))
    assert torn.verify() == 64 * kept.samples
    assert (torn.records[: len(kept.records)] == kept.records).mean() > 0.99, "equal but for the rounding of a batch"
    assert torchrun(tmp_path, "resume", "runs/torn").wait(300) == 0
    assert json.loads((tmp_path / "runs/torn/run.json").read_text())["status"] == "done"


def read(run: Path) -> list[Any]:
    return [json.loads(line) for line in (run / "student-s0" / "metrics.jsonl").read_text().splitlines()]
