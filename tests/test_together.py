"""Students side by side are those that were trained one by one, bit for bit; and the teacher is asked once."""

from __future__ import annotations

import dataclasses
import itertools
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from safetensors.numpy import load_file
from torch import nn

import potstill
from potstill import engine
from potstill.chain import Onward
from potstill.checkpoint import load_state
from potstill.config.load import resolve
from potstill.engine import fit, fit_by_step
from potstill.errors import DivergedError, InterruptedRun
from potstill.meant import losses_of
from potstill.prepare import prepare
from potstill.rehearse import _timed, rehearse
from potstill.runs import Journal
from potstill.taps import Frozen
from potstill.together import Group, Once, Turns, at_once, counted, side_by_side
from potstill.types import Batch
from tests.engine_case import Digits, net, stage

SEEDS = (5, 6, 7)


def cpu() -> Fabric:
    return Fabric(accelerator="cpu", devices=1)


class Counted(nn.Module):
    """The teacher of several students; counts how often it is asked."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(11)
        self.net, self.asked = net(8), 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.asked += 1
        return self.net(x)


def chain(seed: int, teacher: nn.Module, group: Group | None = None, **options: Any) -> list[engine.Stage]:
    """Two stages with one student, with dropout, whose second goes on in the stream; the weights follow from the seed."""
    stream = group or Digits()
    first = stage(epochs=1, seed=seed, name="first", stream=Onward(stream, 0), **options)
    second = dataclasses.replace(first, name="second", stream=Onward(stream, 1), epochs=3)
    frozen = first.scheme.nets["teacher"]
    frozen.net.net = teacher.eval()
    first.scheme.nets["teacher"] = Frozen(frozen.net)
    frozen.net.modules_at = {"0": lambda: teacher.net[0]}
    if group:
        group.join([first.scheme])
    torch.manual_seed(100 + seed)  # dropout
    return [first, second]


def bits(stages: list[engine.Stage], journal: Journal) -> tuple[list[bytes], list[dict[str, Any]]]:
    """Weights and lines of the journal."""
    values = [v.numpy().tobytes() for v in stages[0].scheme.state_dict().values()]
    return values, [{k: v for k, v in row.items() if k != "seconds"} for row in journal.rows()]


@pytest.fixture(scope="module")
def one_by_one(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    return alone(tmp_path_factory.mktemp("alone"))[0]


def alone(folder: Path, **options: Any) -> tuple[list[Any], int]:
    """Each student on its own, and how often the teacher was asked."""
    found, teacher = [], Counted()
    for seed in SEEDS:
        stages, journal = chain(seed, teacher, **options), Journal(folder / f"alone{seed}.jsonl")
        fit(stages, cpu(), journal=journal)
        found.append(bits(stages, journal))
    return found, teacher.asked


def together(
    folder: Path, stop: Callable[[], bool] = lambda: False, every: float = 60.0, **options: Any
) -> tuple[list[Any], int]:
    """All at once; goes on where ``folder`` has a state."""
    teacher, turns = Counted(), Turns(stop, every)
    group = Group(Digits(), turns)
    save_steps = options.pop("save_steps", None)
    made: dict[int, Any] = {}

    def one(seed: int) -> Iterator[Any]:
        home = folder / f"s{seed}"
        home.mkdir(parents=True, exist_ok=True)
        stages, journal = chain(seed, teacher, group, **options), Journal(home / "m.jsonl")
        made[seed] = stages, journal
        common = {"should_stop": turns.stop, "save_every": turns.due, "save_steps": save_steps}
        return (yield from fit_by_step(stages, cpu(), folder=home, journal=journal, **common))

    side_by_side({f"s{seed}": counted(one(seed)) for seed in SEEDS}, turns)
    return [bits(*made[seed]) for seed in SEEDS], teacher.asked


def saved(folder: Path) -> list[int]:
    """The steps of the newest checkpoints."""
    states = [load_state(folder / f"s{seed}" / "last.json") for seed in SEEDS]
    return [state["position"]["total_steps"] if state else 0 for state in states]


@pytest.mark.parametrize("parts", [1, 2])
def test_as_one_by_one_with_one_pass_of_the_teacher(parts: int, tmp_path: Path) -> None:
    """And with the batch in parts."""
    one, asked = alone(tmp_path, accumulate=parts)
    assert together(tmp_path, accumulate=parts) == (one, asked // 3)
    assert asked == 3 * 4 * 5 * parts
    assert one[0] != one[1]


def test_one_may_leave_early(tmp_path: Path) -> None:
    one, _ = alone(tmp_path, patience=1, lr=0.5)
    assert together(tmp_path, patience=1, lr=0.5)[0] == one
    assert len({len(rows) for _, rows in one}) > 1


@pytest.mark.parametrize("writes", [2, 3])
def test_after_a_crash_between_their_checkpoints(
    writes: int, one_by_one: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever was written last: those who lag behind catch up, and all end as if nothing had been."""
    left = itertools.count(writes, -1)
    plain = engine.save_state

    def dies(path: Path, state: dict[str, Any]) -> None:
        if path.stem == "last" and next(left) == 0:
            raise SystemExit("power cut")
        plain(path, state)

    with monkeypatch.context() as patch:
        patch.setattr(engine, "save_state", dies)
        with pytest.raises(SystemExit):
            together(tmp_path, save_steps=4)
    if writes % 3:
        assert len({*saved(tmp_path)}) == 2, "they are at different steps"
    assert together(tmp_path, save_steps=4)[0] == one_by_one


def test_all_stop_and_save_at_one_step(one_by_one: list[Any], tmp_path: Path) -> None:
    asked = iter([*[False] * 7, True])  # never again: it is asked once a round, whoever's turn it is
    with pytest.raises(InterruptedRun, match="step 8 "):
        together(tmp_path, stop=lambda: next(asked))
    assert saved(tmp_path) == [8, 8, 8]
    found, count = together(tmp_path)
    assert found == one_by_one
    assert count == 4 * 5 - 8, "no batch is asked about twice"


def test_all_save_at_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[tuple[str, int]] = []
    plain = engine.save_state

    def noted(path: Path, state: dict[str, Any]) -> None:
        steps.append((path.parent.name, state["position"]["total_steps"])) if path.stem == "last" else None
        plain(path, state)

    monkeypatch.setattr(engine, "save_state", noted)
    together(tmp_path, every=0.02)
    each = {s: [n for who, n in steps if who == s] for s in ("s5", "s6", "s7")}
    assert each["s5"] == each["s6"] == each["s7"]
    assert len(each["s5"]) > 2, "not only at the ends of stages"


def test_the_times_of_the_others_are_not_counted() -> None:
    clock = engine.Clock(0.0)
    away = clock.away(engine.Position())
    next(away)
    clock.began -= 5
    before = clock.seconds()
    engine.time.sleep(0.05)
    next(away, None)
    assert before - 0.01 < clock.seconds() < before + 0.04


def test_whose_loss_was_not_finite(tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match=r"s[567]: loss .* was not finite"):
        together(tmp_path, lr=1e12)


def test_what_is_changed_in_place_is_made_anew() -> None:
    teacher, group = Counted(), Group(Digits())
    group.teachers[teacher] = once = Once(Frozen(potstill.Tapped(teacher)))
    one, two = group.epoch(1), group.epoch(1)
    first = next(one)
    truth = first.x.clone()
    said = once(first.x)["logits"]
    assert next(two) is first
    assert once(first.x)["logits"] is said
    assert once(first.x[:4])["logits"] is not said
    assert teacher.asked == 2
    said.zero_()  # a loss of somebody's own
    assert once(first.x)["logits"].abs().sum() > 0
    first.x.zero_()  # a net of somebody's own
    again = next(group.epoch(1))
    assert torch.equal(again.x, truth)
    assert torch.equal(next(one).ids, [*Digits().epoch(1)][1].ids)
    assert not once.said, "answers are kept for one batch"


@pytest.fixture
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


SETTINGS: dict[str, Any] = {
    "student.model": f"{Path(__file__).parents[1]}/examples/dropout_net.py:make",
    "data": {"source": "digits", "limit": 300},
    "method": "crd+kd",
    "losses": {"crd": {"negatives": 16, "dim": 8}},
    "epochs": 2,
    "control": False,
    "track": [],
}


def files(path: Path, seed: int) -> dict[str, Any]:
    """What a trial leaves, without times: weights, journal, result, answers to the test data, and the last state."""
    home = path / f"student-s{seed}"
    result = json.loads((home / "result.json").read_text())
    journal = Journal(home / "metrics.jsonl")
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in (*journal.rows(), result)]
    names = ("student.safetensors", "test.logits.safetensors")
    state = load_state(home / "state" / "last.json")
    assert state is not None
    return {"rows": rows, "bits": [load_file(home / n) for n in names], "state": (state["schemes"], state["processes"])}


def same(a: Any, b: Any) -> bool:
    """Whether two trees are equal, tensors and arrays to the last bit."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool((a == b).all()) if hasattr(a, "shape") else a == b


@pytest.mark.usefixtures("_here")
def test_a_run_that_is_cut_and_resumed(teacher_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A student with dropout learns by CRD, whose memories and negatives are its own."""
    common = {"quiet": True, "seeds": 2, **SETTINGS}
    one = potstill.distill(str(teacher_run), **{"name": "one", "data.order": 0, **common})
    left = itertools.count(3, -1)
    plain = engine.save_state

    def dies(path: Path, state: dict[str, Any]) -> None:
        if next(left) == 0:
            raise KeyboardInterrupt
        plain(path, state)

    with monkeypatch.context() as patch:
        patch.setattr(engine, "save_state", dies)
        with pytest.raises(KeyboardInterrupt):
            potstill.distill(str(teacher_run), name="two", together=2, save_steps=2, **common)
    two = potstill.resume("runs/two", quiet=True)
    for seed in (0, 1):
        assert same(files(one.path, seed), files(two.path, seed))
    assert not same(files(one.path, 0)["bits"], files(one.path, 1)["bits"])
    assert (
        "together 2 students on one pass of the teacher; all see the pictures in the order of seed 0"
        in (two.facts["preflight"])
    )
    assert two.results["student"]["last"]["top1"]["n"] == 2


@pytest.mark.usefixtures("_here")
def test_it_says_why_not(teacher_run: Path) -> None:
    flags = {"teacher.model": str(teacher_run), "seeds": 3, "together": 2, **SETTINGS}
    config = resolve([], [], flags, "distill").config
    ready = prepare(config)
    plain = [ready.build(ready.student(0), losses_of(config), ready.teacher).scheme]

    def said(schemes: Any = plain, **changes: Any) -> tuple[int, str]:
        n, lines = at_once(dataclasses.replace(ready, config=config.model_copy(update=changes)), schemes)
        return n, " ".join(lines)

    assert said()[0] == 2
    assert said(together=1) == (1, "")
    assert said(together=8)[0] == 3
    for reason, changes in {
        "there is one seed": {"seeds": 1},
        "asked once anyway": {"cache": config.cache.model_copy(update={"on": True})},
        "are compiled": {"compile": True},
        "precision=16": {"precision": "16"},
    }.items():
        n, line = said(**changes)
        assert n == 1
        assert reason in line
        after = "one after the other, with the same result; all see the pictures in the order of seed 0"
        assert (after in line) == ("seeds" not in changes)
    ready.fabric = Fabric(accelerator="cpu", devices=2)
    assert "several processes" in said()[1]
    ready.fabric = cpu()
    assert "no teacher is asked" in said([stage_without_teacher()])[1]
    learns = ready.build(ready.student(0), losses_of(config), ready.teacher).scheme
    learns.nets["teacher"] = learns.nets["teacher"].net
    assert "learns too" in said([learns])[1]
    flags |= {"spots.rule": "always", "method": "kd", "losses": {}}
    config = resolve([], [], flags, "distill").config
    ready = prepare(config)
    routed = ready.build(ready.student(0), losses_of(config), ready.teacher).scheme
    assert "each student's decisions" in said([routed])[1]


@pytest.mark.usefixtures("_here")
def test_the_time_that_is_said_knows_of_one_pass(teacher_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand: a step takes 1 s, its teacher 3 s more; 2 epochs of 5 steps for 4 students."""

    def timed(ready: Any, scheme: Any, batches: Any) -> tuple[float, float, dict[str, float]]:
        return 1.0, 3.0, {link.name: 0.0 for link in scheme.links}

    monkeypatch.setattr("potstill.rehearse._timed", timed)
    flags = {"teacher.model": str(teacher_run), **SETTINGS, "seeds": 4}

    def said(**more: Any) -> str:
        ready = prepare(resolve([], [], {**flags, **more}, "distill").config)
        rehearse(ready)
        return next(line for line in ready.lines if line.startswith("budget"))

    assert "about 3 min on cpu, 75 % of it the teacher's" in said(), "4 * 10 * (1 + 3) s"
    assert "about 70 s on cpu, 43 % of it the teacher's" in said(together=4), "10 * (4 + 3) s"
    assert "about 2 min on cpu, 60 %" in said(together=2), "10 * (4 + 2 * 3) s"
    assert "about 70 s on cpu, 43 %" in said(seeds=2, together=2, control=True), "10 * (2 + 3) s, alone 2 * 10 s"


def test_the_teachers_time_apart(teacher_run: Path) -> None:
    flags = {"teacher.model": str(teacher_run), **SETTINGS}
    config = resolve([], [], flags, "distill").config
    ready = prepare(config)
    scheme = ready.placed(ready.build(ready.student(0), losses_of(config), ready.teacher).scheme)
    scheme.nets["teacher"].net.register_forward_pre_hook(lambda *_: time.sleep(0.3))
    own, asking, _ = _timed(ready, scheme, [next(iter(ready.stream(0).epoch(0)))] * 2)
    assert own < 0.3 < asking


def stage_without_teacher() -> Any:
    scheme = stage().scheme
    scheme.active = ["student"]
    return scheme


def test_one_that_is_interrupted_stops_all_and_threads_are_put_back() -> None:
    turns, before, seen = Turns(), torch.get_num_threads(), []

    def ends() -> Iterator[Any]:
        torch.set_num_threads(before + 2)
        yield (0,)
        seen.append(torch.get_num_threads())
        raise InterruptedRun("in a part that takes no turns")

    def goes() -> Iterator[Any]:
        for step in range(9):
            seen.append(torch.get_num_threads())
            yield (step,)
            if turns.stop():
                raise InterruptedRun("saved")

    with pytest.raises(InterruptedRun):
        side_by_side({"a": ends(), "b": goes()}, turns)
    assert seen == [before, before + 2]
    assert torch.get_num_threads() == before


def test_whose_order() -> None:
    def order(**flags: Any) -> list[int]:
        config = resolve([], [], {"teacher.model": "a", "student.model": "b", "seed": 3, **flags}, "distill").config
        return [config.order(seed) for seed in (3, 4)]

    assert order() == [3, 4]
    assert order(together=2) == [3, 3]
    assert order(**{"data.order": 9}) == order(together=2, **{"data.order": 9}) == [9, 9]


def test_batches_are_made_once() -> None:
    made: list[tuple[int, int]] = []

    class Noted(Digits):
        def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
            for step, batch in enumerate(super().epoch(epoch, start), start):
                made.append((epoch, step))
                yield batch

    group = Group(Noted())
    for e in (0, 1):
        for a, b in zip(group.epoch(e), group.epoch(e), strict=True):
            assert a is b
    assert made == [(e, s) for e in (0, 1) for s in range(5)]
    assert torch.equal(next(group.epoch(0, 3)).ids, [*Digits().epoch(0)][3].ids)
    short = Group(Digits(32))
    assert not torch.equal(next(short.epoch(0)).ids, next(short.epoch(1)).ids)
