"""The measuring of benchmarks/speed.py: what it reports is what it ran. The GPU's part needs one."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks import speed_show
from benchmarks.peers import peer
from benchmarks.speed import Case, measure, started, taught
from benchmarks.speed_device import covered, on_cpu
from benchmarks.speed_show import METHODS, OURS, plot, rows, table

from potstill.cache import Cached
from potstill.methods import PRESETS
from potstill.teacher import has_bf16

CASE = Case("kd", ("resnet8", "resnet8"))


def test_kernels_that_overlap_are_counted_once() -> None:
    assert covered([(5, 6), (0, 2), (1, 3), (1, 2)]) == 4
    assert covered([]) == 0


def test_the_peak_is_of_the_step() -> None:
    def make() -> object:
        keep = np.ones(25 * 2**20 // 8)  # stood before: not counted
        return lambda: np.ones(50 * 2**20 // 8).sum() + keep[0]

    found = on_cpu(make)  # type: ignore[arg-type]
    assert found is not None
    assert 45 < found < 65


def test_a_step_that_fails_ends_the_run_only_if_it_is_ours() -> None:
    def make() -> None:
        raise TypeError("no such argument")

    assert started(make, foreign=True) == "TypeError: no such argument"  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        started(make, foreign=False)  # type: ignore[arg-type]
    assert on_cpu(make) is None  # type: ignore[arg-type]


def test_the_variants_teach_alike_in_their_own_way(tmp_path: Path) -> None:
    schemes = {name: taught(CASE, name, tmp_path / name) for name in ("exact", "auto", "equal", "cached")}
    losses = {name: torch.stack([*scheme(CASE.batch).values()]) for name, scheme in schemes.items()}  # type: ignore[operator]
    for name, loss in losses.items():
        torch.testing.assert_close(loss, losses["exact"], rtol=1e-2, atol=1e-2, msg=name)
    assert isinstance(schemes["cached"].nets["teacher"], Cached)  # type: ignore[union-attr]
    assert schemes["cached"].nets["teacher"].live is None  # type: ignore[union-attr]
    formats = {
        name: schemes[name].nets["teacher"].net.net.layer1[0].conv1.weight.is_contiguous()  # type: ignore[union-attr]
        for name in ("exact", "auto")
    }
    assert formats == {"exact": True, "auto": False}


def test_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = measure(CASE, {}, ["auto", "cached", "fast"], 1)
    assert {*row["seconds"], *row["absent"]} == {"floor", "floor bf16", "auto", "cached", "fast"}
    assert {*row["absent"]} == (set() if has_bf16(torch.device("cpu")) else {"floor bf16", "fast"})
    assert row["of_floor"]["floor"] == 1
    assert all(row["peak_mib"][name] > 0 for name in row["seconds"])
    row["of"] = {"repdistiller": {"auto": 0.7, "cached": 0.4}}
    monkeypatch.setattr(speed_show, "RESULTS", tmp_path / "speed.jsonl")
    (tmp_path / "speed.jsonl").write_text("".join(json.dumps({**row, "rounds": n}) + "\n" for n in (1, 2)))
    assert [r["rounds"] for r in rows()] == [2]
    assert "repdistiller: auto 0.70, cached 0.40" in table()
    plot(tmp_path / "speed.svg")
    drawn = (tmp_path / "speed.svg").read_text()
    assert "</svg>" in drawn


def test_every_method_is_one_of_ours() -> None:
    known = {name for method in METHODS for name in method.removesuffix(" before").split("+")}
    assert known <= {*PRESETS}
    for name in ("repdistiller", "mdistiller", "torchdistill"):
        assert {*peer(name).METHODS} <= {*METHODS}
    with pytest.raises(SystemExit, match="there are mdistiller, repdistiller, torchdistill"):
        peer("other")


def test_the_colours_are_those_of_the_variants() -> None:
    assert tuple(speed_show.COLOURS) == OURS
