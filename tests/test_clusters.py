"""Ray clusters: what is refused before anything is started, and what a worker sees of the common folder."""

import os
import socket
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from potstill.cli import run as cli
from potstill.clusters import Cluster, Place, common, reachable, words
from potstill.errors import ConfigError, MachineError


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def cluster(*machines: dict[str, float], own: bool = True) -> Cluster:
    nodes = [{"Alive": True, "Resources": m} for m in machines] + [{"Alive": False, "Resources": {"GPU": 8.0}}]
    ray: Any = SimpleNamespace(nodes=lambda: nodes)
    return Cluster(ray, own)


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    nets = ["--teacher", "zoo:resnet14", "--student", "zoo:resnet8", "--data", "digits"]
    assert cli(["distill", *nets, "--launcher", "ray"]) == MachineError.exit_code
    said = capsys.readouterr().err
    assert "launcher=ray needs ray on every machine of the cluster" in said
    assert 'pip install "potstill[ray]"' in said
    assert not Path("runs").exists()


def test_an_address_is_held_to_its_form_and_tried_first() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # bound, but does not listen
        with pytest.raises(MachineError, match="no Ray cluster answers at"):
            reachable(f"127.0.0.1:{nobody.getsockname()[1]}")
        nobody.listen()
        reachable(f"127.0.0.1:{nobody.getsockname()[1]}")
    for wrong in ("ray://head:10001", "head", "head:http", "head:99999"):
        with pytest.raises(ConfigError, match="must be HOST:PORT, auto or local"):
            reachable(wrong)
    with pytest.raises(ConfigError, match="is the dashboard of a Ray cluster"):
        reachable("head:8265")
    reachable("auto")


def test_what_a_process_takes() -> None:
    plain, chips = {"CPU": 4.0}, {"CPU": 8.0, "GPU": 2.0, "lift": 1.0}
    assert cluster(plain).needs({}, "auto") == {"CPU": 1}  # the GPUs of a dead machine do not count
    assert cluster(plain, chips).needs({}, "auto") == {"CPU": 1, "GPU": 1}
    assert cluster(plain, chips).needs({}, "cpu") == {"CPU": 1}
    need = cluster(plain, chips).needs({"cpu": 3, "gpu": 0.5, "lift": 1}, "auto")
    assert need == {"CPU": 3, "GPU": 0.5, "lift": 1}
    assert cluster(plain, chips).room({"CPU": 3}) == 1 + 2
    assert cluster(plain, chips).room({"CPU": 1, "GPU": 1}) == 2
    assert cluster(plain, chips).room({"CPU": 1, "GPU": 0}) == 12
    with pytest.raises(MachineError, match=r"no machine of the cluster has cpu=16; there is: cpu=4; cpu=8"):
        cluster(plain, chips).needs({"cpu": 16}, "cpu")
    assert cluster(plain, own=False).needs({"cpu": 16}, "cpu") == {"CPU": 16}  # a machine may come
    assert words({"CPU": 1, "GPU": 0.5, "lift": 2}) == "cpu=1, gpu=0.5, lift=2"


def test_a_worker_stands_where_the_command_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POTSTILL_OWN", "1")
    with common(tmp_path / "sweeps") as place:
        monkeypatch.chdir("/")
        monkeypatch.delenv("POTSTILL_OWN")
        monkeypatch.setenv("SLURM_NTASKS_PER_NODE", "8")
        place.enter()
        assert (Path.cwd(), os.environ["POTSTILL_OWN"]) == (tmp_path, "1")
        assert "SLURM_NTASKS_PER_NODE" not in os.environ  # Slurm has started the cluster, not the worker
    assert not [*(tmp_path / "sweeps").iterdir()]


def test_a_folder_that_is_not_common_is_refused(tmp_path: Path) -> None:
    def refused(place: Place, says: str) -> None:
        with pytest.raises(MachineError, match=says):
            place.enter()

    with common(tmp_path) as place:
        facts = vars(place)
        refused(Place(**{**facts, "cwd": str(tmp_path / "gone")}), "does not see .*gone")
        refused(Place(**{**facts, "mark": tmp_path / "gone"}), "does not see .*gone: No such file")
        refused(Place(**{**facts, "word": "another"}), "sees another")
        refused(Place(**{**facts, "version": "0.0.1"}), r"the command 0\.0\.1")
    place.mark.write_text(place.word)  # the file is there, the lock of the command is not: as where locks are not kept
    refused(place, "does not see the locks of others")
