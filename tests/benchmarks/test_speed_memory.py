"""The memory of a step, as benchmarks/speed_memory.py finds it: of the step alone, in a process that nothing else has touched."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from benchmarks.speed_memory import MIB, on_cpu, tensors


def small(mib: int) -> list[np.ndarray]:
    """Pieces of half a page of glibc's heap and less, which it keeps when they are freed."""
    return [np.ones(8 * 1024) for _ in range(16 * mib)]


def make(mib: int) -> Callable[[], None]:
    """A step that needs so much, after a set-up that needed more and gave it back, and kept 25 MiB."""
    freed, keep, last = small(2 * mib), torch.ones(25 * MIB // 4), np.ones(8 * 1024)
    del freed

    def step() -> None:
        pieces = small(mib)
        more = torch.ones(10 * MIB // 4)
        assert last[0] == pieces[0][0]
        assert len(more) < len(keep)

    return step


def fails() -> Callable[[], None]:
    raise TypeError("no such argument")


def test_the_peak_is_of_the_step_and_not_hidden_by_what_was_freed_before() -> None:
    found = on_cpu(partial(make, 60))
    assert 64 < found["resident"] < 140  # gaps of the heap are in it; what the set-up took is not
    assert found["tensors"] == 10


@pytest.mark.slow
def test_a_step_that_fails_has_no_memory() -> None:
    assert on_cpu(fails) == {}


def test_tensors_are_counted_beyond_what_stood_before() -> None:
    held = {"x": torch.ones(MIB // 4)}

    def anew() -> None:
        held.clear()
        held["x"] = torch.ones(MIB // 4)

    def beside() -> None:
        held["x"] = torch.ones(MIB // 4)

    assert tensors(anew) == 0
    assert tensors(beside) == MIB
