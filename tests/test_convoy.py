"""Runs side by side: who can share, and what they share then."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from potstill import pace
from potstill.config.load import resolve
from potstill.convoy import Convoy, Part, unlike
from potstill.errors import InterruptedRun
from potstill.methods.build import Built
from potstill.prepare import prepare
from potstill.ready import Ready
from potstill.rehearse import rehearse

STUDENT = "zoo:cnn(widths=(4, 8))"


def made(teacher: Path, **flags: Any) -> Ready:
    nets = {"teacher.model": str(teacher), "student.model": STUDENT, "data.source": "digits", "data.limit": 300}
    return prepare(resolve([], [], {**nets, "control": False, "epochs": 2, **flags}, "distill").config)


def entered(convoy: Convoy, ready: Ready) -> tuple[Part, Built]:
    convoy.meet(ready)
    built = rehearse(ready)
    return convoy.enter(ready, built), built


def test_they_share_one_teacher_and_one_copy_of_the_data(teacher_run: Path) -> None:
    convoy = Convoy(lambda: False, 60.0)
    a, b = made(teacher_run), made(teacher_run, method="kd+at", **{"optim.lr": 0.01, "epochs": 5})
    assert a.teacher is not b.teacher
    (one, _), (two, built) = entered(convoy, a), entered(convoy, b)
    assert one is two
    assert a.teacher is b.teacher
    assert a.splits is b.splits
    assert "teacher" not in built.scheme.nets, "its own is not kept in memory"
    assert one.group(a, 0) is one.group(b, 0) is not one.group(b, 1)


def test_why_not(teacher_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    convoy = Convoy(lambda: False, 60.0, said.append)
    entered(convoy, made(teacher_run))
    for flags, reason in (
        ({"data.batch": 32}, "another data.batch"),
        ({"seed": 1}, "another order of the pictures; data.order=0 would give all the same one"),
        ({"method": "mlkd"}, "another second view of the pictures"),
        ({"cache.on": True}, "with cache=true the teacher is asked once anyway"),
        ({"spots.rule": "always"}, "spot-adaptive distillation"),
    ):
        part, _ = entered(convoy, made(teacher_run, **flags))
        assert part.number == len(convoy.parts) - 1 > 0
        assert said[-1].startswith(reason)
    again, _ = entered(convoy, made(teacher_run, **{"data.batch": 32}))
    assert again.number == 1, "it shares with its like"
    other = made(teacher_run)
    assert other.teacher is not None
    with torch.no_grad():
        next(other.teacher.module.parameters()).add_(1e-6)
    assert unlike(convoy.parts[0].first, other) == "another teacher"
    slow = made(teacher_run)
    slow.channels_last = False
    assert "memory format" in str(convoy.parts[0].unlike(slow))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    assert "number of threads" in str(convoy.parts[0].unlike(made(teacher_run)))


def test_a_teacher_is_made_faster_once_for_all(teacher_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And each writes down how, so that it goes on, or is done again, as it was."""
    measured: list[tuple[str, ...]] = []
    plain = pace.speed_up

    def chosen(teacher: Any, x: torch.Tensor, **options: Any) -> pace.Sped:
        measured.append(teacher.spots)
        sped = plain(teacher, x, precision="exact")
        how = ["channels-last"] if teacher.spots == () else []  # whatever the clock would say
        return pace.Sped(pace.replay(sped.net, how, x), how, {"plain": 2.0, "channels-last": 1.0})

    monkeypatch.setattr(pace, "SHORT", 1)
    monkeypatch.setattr(pace, "speed_up", chosen)
    convoy = Convoy(lambda: False, 60.0)
    runs = [made(teacher_run, method=m, **{"teacher.speed": "equal"}) for m in ("kd", "dkd", "kd+at", "at")]
    assert len({entered(convoy, run)[0].number for run in runs}) == 1
    assert len(measured) == 2, "once a set of spots"
    assert runs[0].sped[()] is runs[1].sped[()]
    assert [[row["how"] for row in pace.written(r) if row["spots"] == []] for r in runs[:2]] == [
        [["channels-last"]]
    ] * 2
    assert not runs[3].sped, "as it was given: that of all"
    started = made(teacher_run, **{"teacher.speed": "equal"})
    started.paced = {(): {"how": [], "ratio": 1.0, "kl": 0.0}}
    entered(convoy, started)
    assert started.paced[()]["how"] == [], "it was started otherwise, and goes on so"


def test_who_has_not_begun_does_not_begin_when_they_stop() -> None:
    convoy = Convoy(lambda: True, 60.0)
    with pytest.raises(InterruptedRun, match="before it began"):
        convoy.begin()
