"""One run on a Ray cluster: the same run directory as without, also where a process is killed."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import potstill
from potstill.config.load import resolve
from potstill.console import Console
from potstill.errors import ConfigError
from potstill.run import check
from potstill.spread import _begun, _relayed, _stop_where, alone
from potstill.trial import Stop

NET = """from torch import nn
def make(num_classes, in_channels=1):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, num_classes))
"""  # no batch norm: its statistics are those of each process's own samples


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def test_this_machine_looks_at_it_as_one_process(teacher_run: Path) -> None:
    flags = {"teacher.model": str(teacher_run), "student.model": "zoo:cnn(widths=(4, 8))", "data.source": "digits"}
    config = resolve([], [], {**flags, "launcher": "ray", "devices": 4, "nodes": 2, "epochs": 1}).config
    assert (alone(config).launcher, alone(config).devices, alone(config).nodes) == (None, 1, 1)
    assert any("student" in line for line in check(config))  # and not: nobody has started the processes
    assert not Path("runs").exists()


def test_objects_stay_here() -> None:
    with pytest.raises(ConfigError, match="other processes cannot have the objects"):
        potstill.train(__import__("torch").nn.Linear(64, 10), "digits", launcher="ray", quiet=True)


def test_what_died_before_it_was_a_run_is_cleared_away(tmp_path: Path) -> None:
    home = tmp_path / "r"
    home.mkdir()
    (home / "run.json").write_text("{}")
    assert not _begun(home)
    assert not [*home.iterdir()]
    for name in ("run.json", "config.yaml"):
        (home / name).write_text("{}")
    assert _begun(home)
    assert (home / "run.json").exists()


def test_what_the_first_process_says_is_said_here(tmp_path: Path) -> None:
    said: list[str] = []
    console = Console(quiet=True)
    console.say = said.append  # type: ignore[assignment,method-assign]
    heard = tmp_path / "said"
    with _relayed(heard, console):
        heard.write_text("one\ntwo\nhal")
        time.sleep(1.2)
        assert said == ["one\ntwo"]  # a line is said when it is whole
        heard.write_text("one\ntwo\nhalf\n")
    assert said == ["one\ntwo", "half"]


def distil(teacher: Path, name: str, *more: str) -> list[str]:
    net = ["distill", "--data", "digits", "--teacher", str(teacher), "--student", "net.py:make", "--name", name]
    return [
        sys.executable,
        "-m",
        "potstill",
        *net,
        "--no-control",
        "--device",
        "cpu",
        "track=[]",
        "data.augment=none",
        *more,
    ]


def losses(name: str) -> list[float]:
    lines = Path(f"runs/{name}/student-s0/metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["train"]["loss"] for line in lines]


def until(there: Any, begun: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 300
    while not there() and time.monotonic() < end:
        assert begun.poll() is None
        time.sleep(0.1)


RAY = ("--launcher", "ray", "devices=2", "ray.address=local")


@pytest.mark.slow
def test_ray_gives_what_one_process_gives_and_goes_on_after_a_kill(teacher_run: Path) -> None:
    pytest.importorskip("ray")
    psutil = pytest.importorskip("psutil")
    Path("net.py").write_text(NET)
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(distil(teacher_run, "one", "--epochs", "30"), check=True, env=env)

    many = [*distil(teacher_run, "torn", "--epochs", "30", *RAY), "save_steps=50"]
    begun = subprocess.Popen(many, env=env, stderr=subprocess.PIPE)
    until(Path("runs/torn/student-s0/state/last.json").exists, begun)
    children = psutil.Process(begun.pid).children(recursive=True)
    next(c for c in children if "RayTrainWorker" in " ".join(c.cmdline())).kill()
    _, told = begun.communicate(timeout=400)
    assert begun.returncode == 0, told.decode()
    assert b"begun again from the last checkpoint" in told
    assert losses("torn") == pytest.approx(losses("one"), rel=1e-3)
    assert sorted(p.name for p in Path("runs").iterdir()) == ["one", "torn"]  # nothing of Ray is left
    one, torn = ({p.name for p in Path(f"runs/{name}").iterdir()} - {"log.txt"} for name in ("one", "torn"))
    assert one == torn


@pytest.mark.slow
def test_ctrl_c_saves_the_state(teacher_run: Path) -> None:
    pytest.importorskip("ray")
    Path("net.py").write_text(NET)
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    many = [*distil(teacher_run, "left", "--epochs", "3000", *RAY), "save_steps=50"]
    begun = subprocess.Popen(many, env=env, stderr=subprocess.PIPE)
    until(Path("runs/left/student-s0/state/last.json").exists, begun)
    begun.send_signal(signal.SIGINT)
    _, told = begun.communicate(timeout=200)
    assert begun.returncode == 130, told.decode()
    assert b"potstill resume runs/left" in told
    assert json.loads(Path("runs/left/run.json").read_text())["status"] == "interrupted"


def test_a_training_that_begins_after_the_stop_is_asked_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("potstill.spread.POLL", 0.01)
    stop, late = tmp_path / "stop", Stop()
    stop.touch()
    threading.Thread(target=_stop_where, args=(stop,), daemon=True).start()
    time.sleep(0.05)
    assert not late.asked
    monkeypatch.setattr(Stop, "elsewhere", [late])
    until = time.monotonic() + 5
    while not late.asked and time.monotonic() < until:
        time.sleep(0.01)
    stop.unlink()  # the thread lives on
    assert late.asked
