"""The measuring of benchmarks/speed.py: what it reports is what it ran. The GPU's part needs one."""

import copy
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks import speed, speed_cases, speed_show
from benchmarks.peers import _torchdistill, peer, torchdistill
from benchmarks.speed import measure, measured
from benchmarks.speed_cases import Case, floor_of, started, taught
from benchmarks.speed_device import covered
from benchmarks.speed_memory import tensors
from benchmarks.speed_show import METHODS, OURS, plot, rows, table

from potstill.cache import Cached
from potstill.methods import PRESETS
from potstill.teacher import has_bf16

CASE = Case("kd", ("resnet8", "resnet8"), size=16)


def test_kernels_that_overlap_are_counted_once() -> None:
    assert covered([(5, 6), (0, 2), (1, 3), (1, 2)]) == 4
    assert covered([]) == 0


def test_a_step_that_fails_ends_the_run_only_if_it_is_ours() -> None:
    def make() -> None:
        raise TypeError("no such argument")

    assert started(make, foreign=True) == "TypeError: no such argument"  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        started(make, foreign=False)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["theirs", "auto"])
def test_a_step_that_fails_later_does_so_too(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def step() -> None:
        calls.append(0)
        if len(calls) == 3:
            raise ValueError("the loss is inf")

    monkeypatch.setattr(speed, "variants", lambda *_: {"floor": lambda: lambda: None, name: lambda: step})
    monkeypatch.setattr(speed, "of_step", lambda *_, **__: {"resident": 1.0})
    if name == "auto":
        with pytest.raises(ValueError, match="inf"):
            measure(CASE, {"theirs": None}, ["auto"], 4)
    else:
        line = measure(CASE, {"theirs": None}, [], 4)
        assert line["absent"] == {"theirs": "ValueError: the loss is inf"}
        assert {*line["seconds"]} == {*line["memory_mib"]} == {"floor"}


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


def test_a_variant_stands_beside_the_floor_of_its_precision_and_compile_state() -> None:
    plain, compiled, fast = {"floor"}, {"floor compiled"}, {"floor fast"}
    assert {floor_of(n) for n in ("exact", "auto", "equal", "cached", "repdistiller", "floor")} == plain
    assert {floor_of(n) for n in ("compiled", "compiled cached", "floor compiled")} == compiled
    assert {floor_of(n) for n in ("fast", "fast cached", "floor fast")} == fast


@pytest.fixture(scope="module")
def one_line() -> dict[str, Any]:
    """A line of a run, without the minutes of the compiler, and with memory looked at in this process."""

    def compile_nets(schemes: object, x: object) -> tuple[list[str], dict[str, bool]]:
        return ["compile: student: equal to eager"], {}

    def of_step(make: Callable[[], Any], device: str, keep: bool) -> dict[str, float]:
        return {"resident": 1.0 + keep, "tensors": tensors(make())}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(speed_cases, "compile_nets", compile_nets)
        patch.setattr(speed, "of_step", of_step)
        return measure(CASE, {}, ["auto", "cached", "compiled cached", "fast"], 1)


@pytest.fixture
def line(one_line: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(speed_show, "RESULTS", tmp_path / "speed.jsonl")
    return copy.deepcopy(one_line)


def written(*lines: dict[str, Any]) -> None:
    speed_show.RESULTS.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_a_line(line: dict[str, Any]) -> None:
    names = {"floor", "floor compiled", "floor fast", "auto", "cached", "compiled cached", "fast"}
    assert {*line["seconds"], *line["absent"]} == names
    if has_bf16(torch.device("cpu")):
        assert not line["absent"]
    else:
        assert {*line["absent"]} == {"floor fast", "fast"}
        assert "no instructions for bf16" in line["absent"]["fast"]
    assert line["of_floor"]["floor"] == line["of_floor"]["floor compiled"] == 1
    assert line["floor_seconds"]["compiled cached"] == line["seconds"]["floor compiled"]
    assert line["floor_seconds"]["cached"] == line["seconds"]["floor"]
    assert {*line["how"]} - {"fast", "floor fast"} == {"floor compiled", "compiled cached"}
    assert all(line["memory_mib"][name]["tensors"] > 0 for name in line["seconds"])
    assert line["memory_mib"]["auto"]["resident"] == 2  # ours keep freed memory, as a run does


def test_a_resumed_run_leaves_out_what_one_line_has(line: dict[str, Any], tmp_path: Path) -> None:
    has = partial(measured, CASE, {}, ["auto", "fast"], 1)
    assert not has()
    written(line)
    assert has()
    assert not measured(CASE, {}, ["auto", "exact"], 1)
    assert not measured(CASE, {}, ["auto"], 2)
    assert not measured(CASE, {"repdistiller": None}, ["auto"], 1)
    assert not measured(Case("kd", CASE.pair), {}, ["auto"], 1)  # another batch
    written(line | {"memory_mib": {**line["memory_mib"], "auto": {}}})
    assert not has()
    written({k: v for k, v in line.items() if k != "memory_mib"})
    assert not has()


def test_the_newest_line_with_each_peer_is_shown(line: dict[str, Any]) -> None:
    both = line | {"of": {"mdistiller": {"auto": 0.9}, "repdistiller": {"auto": 0.8}}, "rounds": 1}
    one = line | {"of": {"repdistiller": {"auto": 0.7, "cached": 0.4}}, "rounds": 2}
    written(line, both, one)
    assert [row["rounds"] for row in rows()] == [1, 2]
    written(line | {"rounds": 1}, line | {"rounds": 2})
    assert [row["rounds"] for row in rows()] == [2]
    written(both, one | {"of": both["of"]})
    assert [row["rounds"] for row in rows()] == [2]


def test_the_table_and_the_figure(line: dict[str, Any], tmp_path: Path) -> None:
    line["of"] = {"repdistiller": {"auto": 0.7, "cached": 0.4}}
    line["seconds"]["cached"], line["floor_seconds"]["cached"], line["of_floor"]["cached"] = 0.3, 0.2, 1.4
    line["memory_mib"]["cached"] = {"resident": 12.0, "tensors": 10.0}
    written(line)
    assert (
        "| resnet8-resnet8, cpu, batch 16 | kd | cached | 300 | 200 | 1.40 | 0.400 | 12 | 10 |  |"
        in table().splitlines()
    )
    written({k: v for k, v in line.items() if k not in ("memory_mib", "floor_seconds")} | {"peak_mib": {"cached": 99}})
    assert (
        "| resnet8-resnet8, cpu, batch 16 | kd | cached | 300 | 214 | 1.40 | 0.400 |  |  |  |" in table().splitlines()
    )
    plot(tmp_path / "speed.svg")
    assert "</svg>" in (tmp_path / "speed.svg").read_text()
    written()
    with pytest.raises(SystemExit, match="no line"):
        plot(tmp_path / "none.svg")


def test_every_method_is_one_of_ours() -> None:
    known = {name for method in METHODS for name in method.removesuffix(" before").split("+")}
    assert known <= {*PRESETS}
    for name in ("repdistiller", "mdistiller", "torchdistill"):
        assert {*peer(name).METHODS} <= {*METHODS}
    with pytest.raises(SystemExit, match="there are mdistiller, repdistiller, torchdistill"):
        peer("other")


@pytest.mark.parametrize("method", torchdistill.METHODS)
def test_torchdistill_hears_modules_that_our_nets_have(method: str) -> None:
    net = torchdistill.nets(("resnet8", "resnet8"))[0]
    widths = torchdistill.widths(net)
    assert widths == {"layer1": 16, "layer2": 32, "layer3": 64, "fc": 64}
    made = _torchdistill.config(method, widths, widths)
    for side in ("teacher", "student"):
        hook, wrapped = made[side]["forward_hook"], "auxiliary_model_wrapper" in made[side]
        own = ("model.", "teacher_model.", "student_model.") if wrapped else ("",)
        for path in (*hook["input"], *hook["output"]):
            prefix = next((p for p in own if path.startswith(p)), None)
            if prefix is not None:  # else a module of its wrapper
                net.get_submodule(path.removeprefix(prefix).replace(".-1.", ".0."))


def test_the_colours_are_those_of_the_variants() -> None:
    assert tuple(speed_show.COLOURS) == OURS
