"""A compression said in a configuration: a recipe is distilled first, a run's own `compress:` is what happens to it."""

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
from safetensors.torch import load_file

pytest.importorskip("torch_pruning")

import potstill
from potstill.compress.plan import planned, refined, words, words_of
from potstill.config.load import recipes, resolve
from potstill.config.schema import Config
from potstill.errors import ConfigError
from potstill.ready import Objects

RECIPE = """
data: {source: digits, limit: 300}
teacher: TEACHER
student: zoo:cnn(widths=(16, 16))
epochs: 2
track: []
compress:
  prune: {macs: 0.7, round_to: 4}
  recover: {epochs: 1, control: false}
"""


def recipe(teacher: Path, folder: Path, more: str = "") -> Path:
    path = folder / "edge.yaml"
    path.write_text(RECIPE.replace("TEACHER", str(teacher)) + more)
    return path


def kinds(done: Any) -> list[str]:
    return [s["kind"] for s in done.facts["stages"]]


def test_a_recipe_is_distilled_then_compressed_and_what_is_done_stays(teacher_run: Path, tmp_path: Path) -> None:
    path, out = recipe(teacher_run, tmp_path), tmp_path / "edge"
    done = potstill.compress(path, out, quiet=True)
    assert kinds(done) == ["student", "prune", "recover"]
    assert json.loads((out / "run" / "run.json").read_text())["kind"] == "distill"
    start, cut = (s["facts"] for s in done.facts["stages"][:2])
    assert cut["macs"] <= 0.7 * start["macs"]
    made = (out / "run" / "student.safetensors").stat().st_mtime_ns
    again = potstill.compress(path, out, quiet=True, sparsify=False)
    assert again.facts["stages"] == done.facts["stages"]  # with the very seconds that they took
    assert (out / "run" / "student.safetensors").stat().st_mtime_ns == made
    kept = words_of(resolve([str(out / "run" / "config.yaml")]).config.compress)  # the run knows its `compress:`
    assert kept == {"prune": {"macs": 0.7, "round_to": 4}, "recover": {"epochs": 1, "control": False}}
    only = potstill.compress(out / "run", tmp_path / "only", quiet=True, sparsify=0.5, recover=False)
    assert kinds(only) == ["student", "sparsify"]  # words of the call stand for all of it
    assert (tmp_path / "only" / "report.html").exists()
    path.write_text(path.read_text().replace("epochs: 2", "epochs: 3"))
    with pytest.raises(ConfigError, match="a run of other settings"):
        potstill.compress(path, out, quiet=True)


def test_wrong_words_are_told_before_the_training(teacher_run: Path, tmp_path: Path) -> None:
    path = recipe(teacher_run, tmp_path, more="  quantize: {precison: int8}\n")
    with pytest.raises(ConfigError, match="Did you mean 'precision'"):
        potstill.compress(path, tmp_path / "edge", quiet=True)
    assert not (tmp_path / "edge").exists()


@pytest.mark.slow  # 15 s of processor time; an interruption without a kill is in test_chain.py
def test_a_killed_compression_ends_as_if_it_had_not_been(teacher_run: Path, tmp_path: Path) -> None:
    """SIGKILL in the recovery; the same command again gives the weights of a compression that was left alone, bit for bit."""
    out, plan = (
        tmp_path / "killed",
        {"prune": {"ratio": 0.4, "round_to": 4}, "recover": {"epochs": 4, "control": False}},
    )
    code = f"import potstill; potstill.compress({str(teacher_run)!r}, {str(out)!r}, quiet=True, **{plan!r})"
    process = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "OMP_NUM_THREADS": "1"})
    rows = out / ".2-recover" / "run" / "student-s0" / "metrics.jsonl"
    until = time.monotonic() + 120
    while not (rows.exists() and rows.read_text().count("\n") >= 1) and process.poll() is None:
        assert time.monotonic() < until
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (out / "2-recover").exists()
    began = (out / "1-prune" / "stage.json").stat().st_mtime_ns
    again = potstill.compress(teacher_run, out, quiet=True, **plan)
    assert (out / "1-prune" / "stage.json").stat().st_mtime_ns == began
    straight = potstill.compress(teacher_run, tmp_path / "straight", quiet=True, **plan)
    one, other = (load_file(r.path / "student.safetensors") for r in (again, straight))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[k], other[k]) for k in one)


def test_another_aim_of_pruning_replaces_the_one_of_the_file() -> None:
    base = words(prune={"ratio": 0.5, "importance": "taylor"}, quantize="int8", verify=True)
    plan = refined(base, words(prune={"macs": 0.3}, quantize={"train": 5}, export="onnx", verify=False))
    nothing: Any = None
    stages = planned(nothing, nothing, Objects(), **plan, recover=0)
    assert [s.kind for s in stages] == ["prune", "quantize", "export"]
    assert (stages[0].macs, stages[0].ratio, stages[0].importance) == (0.3, None, "taylor")
    assert (stages[1].precision, stages[1].train) == ("int8", 5)


def test_every_shipped_recipe_that_compresses_says_a_whole_chain() -> None:
    """``potstill compress NAME`` works out of the box: its stages can be made, and end with a proof."""
    plans = {name: words_of(resolve([name]).config.compress) for name in recipes()}
    assert plans["digits-edge"]
    nothing: Any = None
    for plan in filter(None, plans.values()):
        kinds = [s.kind for s in planned(nothing, nothing, Objects(), **plan)]
        assert kinds == ["prune", "recover", "quantize", "export", "verify"]


def test_a_cut_is_learned_back_where_nothing_is_said() -> None:
    nothing: Any = None
    stages = planned(nothing, nothing, Objects(), prune=0.5)
    assert [s.kind for s in stages] == ["prune", "recover"]
    default = Config.model_fields["compress"].annotation
    assert stages[1].epochs == next(c for c in default.__args__ if c is not type(None))().recover == 10
    with pytest.raises(ConfigError, match="how much shall be pruned"):
        planned(nothing, nothing, Objects(), importance="taylor")
