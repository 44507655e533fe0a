"""What is searched: said by the command, else by ``sweep:`` in the configuration."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from potstill.errors import ConfigError
from potstill.search.plan import Plan

TEXT = """
data: digits
teacher: resnet14
student: resnet8
sweep: {trials: 3, over: {losses.kd.temperature: 1..20, optim: {lr: 0.01..0.5}}, against: bytes, workers: 2, stop: false}
"""


@pytest.fixture
def mine(tmp_path: Path) -> list[str]:
    (tmp_path / "mine.yaml").write_text(TEXT)
    return [str(tmp_path / "mine.yaml")]


def test_the_configuration_says_what_the_command_does_not(mine: list[str]) -> None:
    plan = Plan.asked(mine, [], {}, trials=None, over=None, against=None, out="sweeps")
    assert (plan.trials, plan.against, plan.workers, plan.stop, plan.recover) == (3, "bytes", 2, False, None)
    assert [d.key for d in plan.dimensions] == ["losses.kd.temperature", "optim.lr"]
    over = Plan.asked(mine, [], {}, trials=9, over=["data.batch=16,32"], stop=True, workers=1)
    assert (over.trials, over.workers, over.stop) == (9, 1, True)
    assert [d.key for d in over.dimensions] == ["data.batch"]  # all that is varied
    assert over.config.sweep is None  # a trial is no sweep
    with pytest.raises(ConfigError, match=r"optim\.lr is both fixed and varied"):
        Plan.asked(mine, ["optim.lr=0.1"], {}).dimensions  # noqa: B018


def test_more_trials_are_the_same_sweep_and_another_range_is_not(mine: list[str]) -> None:
    made = Plan.asked(mine, [], {}).made
    assert Plan.asked(mine, ["sweep.trials=50", "sweep.workers=1", "sweep.stop=true"], {}).made == made
    assert Plan.asked(mine, ["sweep.over.optim.lr=0.01..0.6"], {}).made != made


def test_another_process_searches_the_same(mine: list[str]) -> None:
    over = {"losses.kd.temperature": (1.5, 20), "data.batch": [16, 32]}
    plan = Plan.asked(mine, [], {}, over=over)
    other = Plan(**json.loads(json.dumps(plan.shared())))
    assert other.dimensions == plan.dimensions
    assert (other.made, other.trials, other.workers) == (plan.made, 3, 1)


def test_trials_together_see_the_same_pictures() -> None:
    """Where the seed is varied their order is fixed, and written down; else nothing depends on how many are trained at once."""
    nets = {"teacher.model": "a", "student.model": "b"}
    over = ["losses.kd.temperature=1..20"]
    assert Plan(flags=nets, over=over, together=4).made == Plan(flags=nets, over=over).made
    seeds = Plan(overrides=["data.batch=8"], flags=nets, over=["seed=5..9"], together=4)
    assert [seeds.resolved({"seed": s}).order(s) for s in (5, 9)] == [0, 0]
    assert seeds.resolved({"seed": 9}).data.batch == 8
    apart = Plan(flags=nets, over=["seed=5..9"])
    assert [apart.resolved({"seed": s}).order(s) for s in (5, 9)] == [5, 9]
    both = Plan(flags={**nets, "seeds": 2, "together": 2, "seed": 3}, over=over, together=4).config
    assert (both.together, both.seeds, both.order(3), both.order(4)) == (1, 2, 3, 3)
    with pytest.raises(ConfigError, match="--together must be a whole number from 1"):
        _ = Plan(flags=nets, over=over, together=0).dimensions
