"""A chain of stages: what is done stays, what was interrupted goes on, and the result is read like a run."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("torch_pruning")

import potstill
from potstill.cli import run as command
from potstill.compress.plan import planned
from potstill.compress.prune import Prune
from potstill.compress.recover import Recover
from potstill.compress.stage import STAGES, Work, make
from potstill.config.schema import Config
from potstill.console import Console
from potstill.errors import ConfigError, InterruptedRun
from potstill.evaluate import evaluate
from potstill.models.resolve import resolve
from potstill.ready import Objects

CUT = Prune(0.4, round_to=4, batches=4)


@dataclass(frozen=True)
class Counted:
    """A stage of a user's own: writes a file, and says how often it was run."""

    label: str = "x"
    kind = "counted"
    resumes = False

    def run(self, work: Work) -> dict[str, Any]:
        LOG.append(self.label)
        (work.folder / "own.txt").write_text(self.label)
        return {"before": list(work.before)}


LOG: list[str] = []


class Unplugged(Console):
    """Pulls the plug after the first epoch of a training."""

    def epoch(self, row: Any) -> None:
        raise KeyboardInterrupt


def test_an_interrupted_chain_goes_on_and_ends_as_if_it_had_not_been(teacher_run: Path, tmp_path: Path) -> None:
    stages = [Counted(), CUT, Recover(2, control=False, settings={"data.limit": 300})]
    LOG.clear()
    with pytest.raises(InterruptedRun, match=r"3-recover was interrupted"):
        potstill.compress(str(teacher_run), tmp_path / "a", stages=stages, console=Unplugged(quiet=True))
    assert sorted(p.name for p in (tmp_path / "a").iterdir() if p.name[0] in ".0123") == [
        *(".3-recover", ".lock"),
        *("0-student", "1-counted", "2-prune"),
    ]
    half = json.loads((tmp_path / "a" / ".3-recover" / "run" / "run.json").read_text())
    assert half["status"] == "interrupted"
    resumed = potstill.compress(str(teacher_run), tmp_path / "a", stages=stages, quiet=True)
    assert LOG == ["x"]
    assert (tmp_path / "a" / "1-counted" / "own.txt").read_text() == "x"
    straight = potstill.compress(str(teacher_run), tmp_path / "b", stages=stages, quiet=True)
    one, other = (load_file(r.path / "student.safetensors") for r in (resumed, straight))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[k], other[k]) for k in one)

    facts = resumed.facts["stages"]
    assert [s["name"] for s in facts] == ["0-student", "1-counted", "2-prune", "3-recover"]
    assert facts[1]["facts"]["before"] == ["0-student"]
    assert facts[2]["facts"]["parameters"] < facts[0]["facts"]["parameters"]
    run = json.loads((resumed.path / "3-recover" / "run" / "run.json").read_text())
    assert run["student"]["model"].endswith(", pruned")
    assert facts[3]["facts"]["test"]["top1"] == pytest.approx(evaluate(str(resumed.path))["top1"])
    loaded = potstill.load(resumed.path)
    assert sum(p.numel() for p in loaded.parameters()) == facts[3]["facts"]["parameters"]

    with pytest.raises(ConfigError, match="made by another compression"):
        potstill.compress(str(teacher_run), tmp_path / "a", stages=[Counted("y")], quiet=True)


def test_recovery_is_held_against_labels_and_statistics_alone(teacher_run: Path, tmp_path: Path) -> None:
    words = f"--target-macs 0.6 --round-to 4 --limit features.stage1*=0.5 --recover 1 -q --out {tmp_path / 'c'}"
    code = command(["compress", str(teacher_run), *words.split()])
    assert code == 0
    stages = json.loads((tmp_path / "c" / "chain.json").read_text())["stages"]
    prune, recover = stages[1]["facts"], stages[2]["facts"]
    assert prune["after"]["macs"] <= 0.6 * prune["before"]["macs"]
    assert {"cut", "val", "test"} <= prune.keys()
    assert recover["before"] == {k: prune[k] for k in ("val", "test")}  # the statistics alone
    budget = recover["budget"]
    assert budget["epochs"] == 1
    assert recover["labels"]["last"]["top1"]["n"] == recover["distilled"]["last"]["top1"]["n"] == 1
    control = json.loads((tmp_path / "c" / "2-recover" / "run" / "control-s0" / "result.json").read_text())
    assert control["epochs"] == budget["epochs"]


def test_a_module_as_an_object(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        *(torch.nn.Conv2d(1, 16, 3), torch.nn.BatchNorm2d(16), torch.nn.ReLU(), torch.nn.Conv2d(16, 16, 3)),
        *(torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(16, 10)),
    )
    before = {k: v.clone() for k, v in net.state_dict().items()}
    stages = [CUT, Recover(1, control=False, settings={"data.limit": 200})]
    done = potstill.compress(net, tmp_path / "o", data="digits", stages=stages, quiet=True)
    assert done.student[0].out_channels < 16
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())  # the caller's own is left as it was
    assert (tmp_path / "o" / "2-recover" / "run" / "report.html").exists()


def test_a_run_is_not_written_over(teacher_run: Path) -> None:
    before = (teacher_run / "student.safetensors").read_bytes()
    with pytest.raises(ConfigError, match="is a run") as caught:
        potstill.compress(teacher_run, teacher_run, prune=0.5)
    assert "--out" in str(caught.value.hint)
    assert (teacher_run / "student.safetensors").read_bytes() == before
    assert not (teacher_run / "0-student").exists()


def test_a_few_words_become_stages() -> None:
    net = resolve("resnet8", num_classes=10, in_channels=3)
    net.size = (32, 32)
    config = Config.model_validate({"kind": "train", "student": {"model": "resnet8"}})

    def plan(**words: Any) -> list[Any]:
        return planned(net, config, Objects(), **words)

    kinds = [s.kind for s in plan(prune=0.5, rounds=2, recover=3, lowrank=0.5, sparsify="2:4")]
    assert kinds == ["prune", "recover"] * 2 + ["lowrank", "recover", "sparsify", "recover"]
    ratios = [s.ratio for s in plan(prune=0.5, rounds=2, recover=0)]
    assert (1 - ratios[0]) * (1 - ratios[1]) == pytest.approx(0.5)
    first, last = plan(target={"macs": 0.25}, rounds=2, recover=0)
    assert last.macs == pytest.approx(first.macs / 2)
    assert first.macs == pytest.approx(12_501_632 / 2, rel=0.02)
    with pytest.raises(ConfigError):
        plan(prune=0.5, target={"macs": 0.5})


def test_unknown_words() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'prune'"):
        make("prun", 0.5)
    with pytest.raises(ConfigError, match="Did you mean 'importance'"):
        make("prune", 0.5, importanc="bn")
    assert {"prune", "sparsify", "lowrank", "recover", "recalibrate", "quantize", "export", "verify"} == STAGES.keys()
