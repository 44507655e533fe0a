"""The workers of a sweep: tasks on a Ray cluster that starts here."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("optuna")

from potstill.cli import run as cli
from potstill.errors import ConfigError, MachineError
from potstill.search.plan import Plan

SMALL = "zoo:cnn(widths=(4, 8))"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def test_what_is_wrong_is_said_before_anything_is_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["sweep", "--data", "digits", "--teacher", "zoo:resnet8", "--student", "zoo:resnet8", "--launcher"]
    assert cli([*words, "rai"]) == ConfigError.exit_code
    assert "--launcher must be ray" in capsys.readouterr().err
    assert cli([*words, "ray", "ray.resources=cpu=many"]) == ConfigError.exit_code
    assert "cpu=4,gpu=1" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "ray", None)
    assert cli([*words, "ray"]) == MachineError.exit_code
    assert "potstill[ray]" in capsys.readouterr().err
    assert not Path("sweeps").exists()


def test_the_cluster_is_no_part_of_what_is_searched() -> None:
    flags = {"teacher.model": "zoo:resnet8", "student.model": "zoo:resnet8", "data.source": "digits"}
    here, there = (
        Plan.asked([], [], {**flags, **more}) for more in ({}, {"ray.address": "head:6379", "sweep.launcher": "ray"})
    )
    assert (here.launcher, there.launcher) == (None, "ray")
    assert here.made == there.made  # the same folder goes on with it, on a cluster or not
    assert there.shared()["launcher"] is None  # a worker hires nobody


@pytest.mark.slow
def test_a_worker_is_killed_and_the_sweep_goes_on() -> None:
    pytest.importorskip("ray")
    psutil = pytest.importorskip("psutil")
    nets = ["--data", "digits", "--teacher", SMALL, "--student", SMALL, "--epochs", "40", "teacher.epochs=5"]
    ray = ["--launcher", "ray", "ray.address=local", "--workers", "2", "--trials", "3", "save_steps=50"]
    command = [
        sys.executable,
        "-m",
        "potstill",
        "sweep",
        *nets,
        *ray,
        "--no-stop",
        "--name",
        "s",
        "allow_weak_teacher=true",
    ]
    begun = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE)
    end = time.monotonic() + 300
    while not [*Path("sweeps").glob("s/trials/*/student-s0/state/last.json")] and time.monotonic() < end:
        assert begun.poll() is None
        time.sleep(0.1)
    children = psutil.Process(begun.pid).children(recursive=True)
    next(c for c in children if "ray::labour" in " ".join(c.cmdline())).kill()
    _, told = begun.communicate(timeout=500)
    assert begun.returncode == 0, told.decode()
    assert b"a worker teaches it once" in told
    trials = json.loads(Path("sweeps/s/sweep.json").read_text())["trials"]
    assert [t["state"] for t in trials] == ["done"] * 3
    assert max(t["number"] for t in trials) == 3  # another has taken the place, and the folder, of the killed one
    assert not [p for p in Path("sweeps/s").iterdir() if p.name.startswith(".common")]
