"""The trials on disk: shared, gone on with, stopped. No net is trained here."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("optuna")

from potstill.errors import ConfigError
from potstill.search.facts import front, rows
from potstill.search.ledger import JOURNAL, LIVES, STARTUP, Ledger
from potstill.search.space import read

SPACE = read(["optim.lr=0.001..1", "student=a,b"])
CHILD = """
import os, sys, time
from pathlib import Path
from potstill.search.ledger import Ledger
from potstill.search.space import read
ledger = Ledger(Path(sys.argv[1]), read(["optim.lr=0.001..1", "student=a,b"]))
with ledger.working():
    if sys.argv[2] == "die":
        ledger.ask(5)
        print("asked", flush=True)
        time.sleep(60)
    while (trial := ledger.ask(int(sys.argv[2]))) is not None:
        time.sleep(0.02)
        ledger.tell(trial, [trial.params["optim.lr"]])
"""


def child(folder: Path, what: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", CHILD, str(folder), what], stdout=subprocess.PIPE)


def test_two_processes_share_the_trials(tmp_path: Path) -> None:
    ledger, other = Ledger(tmp_path, SPACE), child(tmp_path, "12")
    with ledger.working():
        while not ledger.trials() and other.poll() is None:
            time.sleep(0.02)
        while (trial := ledger.ask(12)) is not None:
            time.sleep(0.02)
            ledger.tell(trial, [trial.params["optim.lr"]])
    other.communicate(timeout=60)
    assert other.returncode == 0
    found = rows(ledger)
    assert len(found) == 12
    assert len({r["home"] for r in found}) == 12
    assert len({t.user_attrs["worker"] for t in ledger.trials()}) == 2
    assert len({r["settings"]["optim.lr"] for r in found}) == 12  # nobody draws what another has drawn
    assert {r["state"] for r in found} == {"done"}


def test_the_trial_of_a_killed_process_is_taken_up(tmp_path: Path) -> None:
    ledger, process = Ledger(tmp_path, SPACE), child(tmp_path, "die")
    assert process.stdout is not None
    assert process.stdout.readline() == b"asked\n"
    with ledger.working():
        assert ledger.ask(1) is None  # the one that was wanted is at work, and alive
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        assert ledger.lacks(1)
        (dead,) = (t for t in ledger.study.get_trials() if t.state.name == "FAIL")
        again = ledger.ask(1)
        assert again is not None
        assert again.params == dead.params
        assert again.user_attrs["home"] == "0000"
        assert again.user_attrs["lives"] == LIVES - 1
        assert ledger.ask(1) is None
        ledger.tell(again, [0.5])
    assert [(r["state"], r["home"]) for r in rows(ledger)] == [("done", "trials/0000")]


def test_a_trial_that_always_dies_is_given_up(tmp_path: Path) -> None:
    for _ in range(LIVES):
        dying = Ledger(tmp_path, SPACE)
        with dying.working():
            assert dying.ask(1) is not None
    last = Ledger(tmp_path, SPACE)
    with last.working():
        assert last.ask(1) is None
        assert [r["state"] for r in rows(last)] == ["died"]
        assert last.ask(2) is not None


def test_a_finished_sweep_goes_on_for_more(tmp_path: Path) -> None:
    for wanted in (2, 2, 5):
        ledger = Ledger(tmp_path, SPACE)
        with ledger.working():
            while (trial := ledger.ask(wanted, {"optim.lr": 0.05})) is not None:
                ledger.tell(trial, [0.5])
    found = rows(ledger)
    assert len(found) == 5
    assert [r["settings"]["optim.lr"] == 0.05 for r in found] == [True, *[False] * 4]  # the published one once


def test_draws_follow_from_the_seed(tmp_path: Path) -> None:
    drawn = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        (tmp_path / name).mkdir()
        ledger = Ledger(tmp_path / name, SPACE, seed=seed)
        with ledger.working():
            for _ in range(3):
                ledger.tell(ledger.ask(9), [0.1])
        drawn.append([r["settings"]["optim.lr"] for r in rows(ledger)])
    assert drawn[0] == drawn[1] != drawn[2]


def test_another_sweep_is_refused(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, SPACE)
    ledger.begin({"config": {"epochs": 3}, "over": "x"})
    ledger.begin({"config": {"epochs": 4}, "over": "x"})  # no trial yet: nothing to mix it with
    with ledger.working():
        ledger.tell(ledger.ask(1), [0.5])
    Ledger(tmp_path, SPACE).begin({"config": {"epochs": 4}, "over": "x"})
    with pytest.raises(ConfigError, match=r"what differs: config\.epochs\n") as caught:
        Ledger(tmp_path, SPACE).begin({"config": {"epochs": 5}, "over": "x"})
    assert "--name" in str(caught.value.hint)


def test_a_bad_trial_is_told_to_stop(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, SPACE, warmup=1)
    with ledger.working():
        for value in range(STARTUP):
            trial = ledger.ask(99)
            assert not any(ledger.report(trial, epoch, 0.5 + value / 100) for epoch in (1, 2, 3))
            ledger.tell(trial, [0.5])
        bad, good = ledger.ask(99), ledger.ask(99)
        assert [ledger.report(bad, epoch, 0.1) for epoch in (1, 2)] == [False, True]  # the first epoch is warm-up
        assert [ledger.report(good, epoch, 0.9) for epoch in (1, 2)] == [False, False]
        ledger.tell(bad, how="stopped", why="it is bad", epochs=2)
    row = rows(ledger)[STARTUP]
    assert (row["state"], row["value"], row["epochs"], row["why"]) == ("stopped", 0.1, 2, "it is bad")


def test_two_aims(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, SPACE, costs=["macs"])
    with ledger.working():
        # accuracy, cost; by hand: 3 beats 1 (equal accuracy, cheaper), 2 is beaten by 0, 4 is the cheapest
        for value, cost in ((0.9, 100), (0.8, 60), (0.85, 120), (0.8, 50), (0.3, 10)):
            trial = ledger.ask(9)
            assert not ledger.report(trial, 5, 0.0)
            ledger.tell(trial, [value, cost], costs={"macs": cost})
        ledger.tell(ledger.ask(9), how="failed", why="no")
        assert ledger.ask(9) is not None  # a failed one does not disturb the next draw
    found = rows(ledger)
    assert [r["number"] for r in front(found, "macs")] == [4, 3, 0]
    assert {t.number for t in ledger.study.best_trials} == {4, 3, 0}


def test_each_combination_once_where_the_trials_suffice(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, read(["student=a,b,c", "method=x,y"]))
    with ledger.working():
        drawn = [ledger.ask(7, {"student.model": "b", "method": "x"}).params for _ in range(6)]
        assert drawn[0] == {"student.model": "b", "method": "x"}
        assert len({tuple(d.values()) for d in drawn}) == 6
        assert ledger.ask(7) is not None, "then the sampler draws again"
    few = Ledger(tmp_path / "few", read(["student=a,b,c", "method=x,y"]))
    with few.working():
        assert few.ask(5) is not None
        assert few._untried(5, few.study.get_trials()) is None, "they do not suffice: the sampler draws"


def test_who_is_interrupted_has_not_died(tmp_path: Path) -> None:
    choices = read(["student=a,b", "method=x,y"])
    for _ in range(LIVES + 1):
        ledger = Ledger(tmp_path, choices)
        with ledger.working():
            one, two = ledger.ask(4), ledger.ask(4)
            assert not ledger.frail(one)
            ledger.put_back(one)
            ledger.put_back(two)
            assert not ledger.running()
    ledger = Ledger(tmp_path, choices)
    with ledger.working():
        assert [ledger.ask(4).user_attrs["home"] for _ in range(2)] == ["0000", "0001"]
    assert len({tuple(t.params.values()) for t in ledger.trials()}) == 2
    for left in (LIVES, 2, 1):
        dying = Ledger(tmp_path / "dying", choices)
        with dying.working():
            again = dying.ask(1)
            assert again.user_attrs.get("lives", LIVES) == left
            assert dying.frail(again) == (left == 1)


def test_a_torn_last_line_is_cut_off(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, SPACE)
    with ledger.working():
        ledger.tell(ledger.ask(1), [0.5])
    with open(tmp_path / JOURNAL, "ab") as file:
        file.write(b'{"op_code": 6, "wor')
    again = Ledger(tmp_path, SPACE)
    with again.working():
        again.tell(again.ask(2), [0.6])
    assert [r["value"] for r in rows(Ledger(tmp_path, SPACE))] == [0.5, 0.6]
