"""Processes on one machine and several: what a launcher started, and that their number changes nothing."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from potstill.config.load import resolve
from potstill.engine import own
from potstill.errors import ConfigError, MachineError
from potstill.machines import first, gone_on, home_of_teacher, make_fabric, started

NET = """from torch import nn
def make(num_classes, in_channels=1):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, num_classes))
"""  # no batch norm: its statistics are those of each process's own samples


def config(*settings: str) -> Any:
    return resolve([], ["kind=train", "student.model=zoo:resnet8", "device=cpu", *settings], {}).config


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_what_a_launcher_started(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TORCHELASTIC_RUN_ID", "SLURM_NTASKS_PER_NODE", "RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    assert started() is None
    assert first()
    monkeypatch.setenv("SLURM_NTASKS_PER_NODE", "8")
    monkeypatch.setenv("SLURM_NNODES", "3")
    monkeypatch.setenv("SLURM_PROCID", "1")
    assert started() == (8, 3)
    assert not first()
    monkeypatch.setenv("SLURM_JOB_NAME", "interactive")
    assert started() is None
    for name, value in {"TORCHELASTIC_RUN_ID": "none", "LOCAL_WORLD_SIZE": "4", "WORLD_SIZE": "8", "RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    assert started() == (4, 2)
    assert first()
    with pytest.raises(MachineError, match="devices=2, but the launcher started 4"):
        make_fabric(config("devices=2"))


@pytest.mark.slow
def test_processes_that_have_met_are_taken_as_they_are(tmp_path: Path) -> None:
    code = """
import os
import torch.distributed as dist
from potstill.config.load import resolve
from potstill.errors import MachineError
from potstill.machines import first, make_fabric, met, started
ranks = {"RANK": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "WORLD_SIZE": "2", "SLURM_NTASKS_PER_NODE": "8"}
os.environ.update(ranks, MASTER_ADDR="127.0.0.1")
assert met() is None  # variables alone say nothing
from torch.testing._internal.distributed.fake_pg import FakeStore
dist.init_process_group("fake", rank=1, world_size=2, store=FakeStore())
assert (met(), started(), first()) == ((1, 2), (1, 2), False)  # before Slurm, which may have started the cluster
config = ["kind=train", "student.model=zoo:resnet8", "device=cpu"]
fabric = make_fabric(resolve([], config, {}).config)
assert (fabric.world_size, fabric.global_rank, fabric.local_rank) == (2, 1, 0)
os.environ["LOCAL_WORLD_SIZE"], os.environ["WORLD_SIZE"] = "2", "3"  # two there, one elsewhere
assert make_fabric(resolve([], [*config, "devices=3"], {}).config).world_size == 3
try:
    make_fabric(resolve([], [*config, "devices=4"], {}).config)
except MachineError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=quiet(), check=False)
    assert "devices=4, nodes=1, but 3 processes were started" in done.stdout, done.stderr


def test_machines_that_nobody_started() -> None:
    with pytest.raises(MachineError, match="nobody has started") as caught:
        make_fabric(config("nodes=2", "devices=4"))
    assert "torchrun --nnodes 2 --nproc-per-node 4" in str(caught.value.hint)


@pytest.mark.slow
def test_a_teacher_on_a_device_of_its_own(teacher_run: Path, tmp_path: Path) -> None:
    root = Path(__file__).parents[1]  # in a process of its own: the device stays registered
    command = [sys.executable, "-m", "tests.far_device", str(teacher_run), str(tmp_path)]
    said = subprocess.run(command, check=True, cwd=root, env=quiet(), capture_output=True, text=True).stdout
    assert said.startswith("None 0 convolutions there\nfar ")


def test_a_device_of_the_teacher_that_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    def home(name: str, processes: int = 1) -> Any:
        wanted = resolve([], ["student=zoo:resnet8", "teacher=zoo:resnet8", f"teacher.device={name}"], {}).config
        return home_of_teacher(wanted, SimpleNamespace(world_size=processes))  # type: ignore[arg-type]

    assert home("cpu") == torch.device("cpu")
    for name in ("cuda:99", "warp", "meta"):
        with pytest.raises(MachineError, match=f"teacher.device={name}"):
            home(name)
    with pytest.raises(MachineError, match="each of 2 processes has a teacher"):
        home("cpu", processes=2)
    with pytest.raises(ConfigError, match="does not go with spots"):
        resolve([], ["student=a", "teacher=b", "teacher.device=cuda:1", "spots=adaptive"], {})


def torchrun(processes: int, *arguments: str) -> list[str]:
    return [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)),
        *("-m", "potstill", *arguments),
    ]


def distil(teacher: Path, name: str, epochs: int) -> list[str]:
    net = ["distill", "--data", "digits", "--teacher", str(teacher), "--student", "net.py:make", "--name", name]
    return [*net, "--epochs", str(epochs), "--no-control", "--device", "cpu", "track=[]", "data.augment=none"]


def losses(name: str) -> list[float]:
    lines = Path(f"runs/{name}/student-s0/metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["train"]["loss"] for line in lines]


def quiet() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.mark.slow
def test_torchrun_gives_what_one_process_gives_and_goes_on_after_a_kill(teacher_run: Path) -> None:
    Path("net.py").write_text(NET)
    subprocess.run([sys.executable, "-m", "potstill", *distil(teacher_run, "one", 3)], check=True, env=quiet())
    for processes in (2, 4):
        name = f"by{processes}"
        subprocess.run(torchrun(processes, *distil(teacher_run, name, 3)), check=True, env=quiet(), timeout=300)
        assert losses(name) == pytest.approx(losses("one"), rel=1e-3)

    torn(distil(teacher_run, "torn", 150))
    subprocess.run(torchrun(2, "resume", "runs/torn"), check=True, env=quiet(), timeout=300)
    subprocess.run(torchrun(2, *distil(teacher_run, "whole", 150)), check=True, env=quiet(), timeout=300)
    assert losses("torn") == losses("whole")


def torn(arguments: list[str]) -> None:
    """Begin a run with two processes, and kill one of them where a checkpoint is."""
    folder = Path("runs", arguments[arguments.index("--name") + 1])
    long = [*arguments, "save_steps=100"]  # soon enough on a fast machine
    begun = subprocess.Popen(torchrun(2, *long), env=quiet(), start_new_session=True)
    until = time.monotonic() + 200
    while not (folder / "student-s0/state/last.json").exists() and time.monotonic() < until:
        time.sleep(0.2)
    ranks = subprocess.run(["pgrep", "-P", str(begun.pid)], capture_output=True, text=True, check=True).stdout.split()
    os.kill(int(ranks[-1]), signal.SIGKILL)  # one process only: torchrun ends the others
    assert begun.wait(timeout=120) != 0
    assert json.loads((folder / "run.json").read_text())["status"] != "done"


@pytest.mark.slow
def test_a_run_in_parts_goes_on_exactly_and_in_one_process(teacher_run: Path) -> None:
    Path("net.py").write_text(NET)
    parts = ["strategy=fsdp", "optim=adamw"]
    torn([*distil(teacher_run, "torn", 30), *parts])
    shutil.copytree("runs/torn", "runs/alone")
    subprocess.run(torchrun(2, "resume", "runs/torn"), check=True, env=quiet(), timeout=300)
    subprocess.run(torchrun(2, *distil(teacher_run, "whole", 30), *parts), check=True, env=quiet(), timeout=300)
    assert losses("torn") == losses("whole")
    read = [Path("runs", name, "student.safetensors").read_bytes() for name in ("torn", "whole")]
    assert read[0] == read[1]
    subprocess.run([sys.executable, "-m", "potstill", "resume", "runs/alone"], check=True, env=quiet(), timeout=300)
    assert losses("alone") == pytest.approx(losses("whole"), rel=1e-3)


def test_a_checkpoint_of_other_many_processes_is_read(tmp_path: Path) -> None:
    each = [{"rng": "a", "sums": {"ce": 1.0}, "seen": 6}, {"rng": "b", "sums": {"ce": 2.0}, "seen": 6}]
    two = SimpleNamespace(world_size=2, global_rank=1)
    assert own({"processes": each}, two) == each[1]  # type: ignore[arg-type]
    for rank, total in enumerate([3.0, 0.0, 0.0]):
        three = SimpleNamespace(world_size=3, global_rank=rank)
        assert own({"processes": each}, three) == {"rng": "a", "sums": {"ce": total}, "seen": 4}  # type: ignore[arg-type]


def test_a_run_goes_on_in_as_many_processes_as_the_launcher_has_started(monkeypatch: pytest.MonkeyPatch) -> None:
    flags = {"student.model": "zoo:resnet8", "devices": 2, "strategy": "fsdp"}
    config = resolve([], [], flags, "train").config
    assert gone_on(config) == config
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "a")
    for here, whole, strategy in ((4, 8, "fsdp"), (1, 1, "auto")):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(here))
        monkeypatch.setenv("WORLD_SIZE", str(whole))
        went = gone_on(config)
        assert (went.devices, went.nodes, went.strategy) == (1, 1, strategy), "the launcher says how many"
