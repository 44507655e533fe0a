"""Freed memory is kept: the kernel need not clear pages at every step."""

import platform
import subprocess
import sys

import pytest

from potstill import allocator
from potstill.config.load import resolve
from potstill.machines import make_fabric

FAULTS = """
import resource, sys
from potstill.allocator import keep_freed
done = keep_freed() if sys.argv[1] == "keep" else False
def step():
    return b"x" * 16_000_000, b"y" * 16_000_000  # beyond what glibc keeps, unless told
for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    step()
print(int(done), resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="libc is not glibc")


def faults(how: str, **variables: str) -> tuple[int, int]:
    env = {"PATH": "", **variables}
    said = subprocess.run([sys.executable, "-c", FAULTS, how], check=True, capture_output=True, text=True, env=env)
    done, count = map(int, said.stdout.split())
    return done, count


@glibc
def test_pages_are_not_asked_for_again() -> None:
    done, kept = faults("keep")
    assert done
    assert kept < 1000
    assert faults("not")[1] > 10_000
    done, own = faults("keep", MALLOC_TRIM_THRESHOLD_="1000000")
    assert not done, "the user has said how it is to be"
    assert own > 10_000


def test_where_libc_is_another_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocator.platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: pytest.fail("libc was asked"))
    assert not allocator.keep_freed()


HELD = """
import sys
from potstill.allocator import give_back
if sys.argv[1] == "give":
    assert give_back()
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
before = resident()
for _ in range(2):  # what is freed between what is kept: a heap cannot give it back
    kept = []
    for _ in range(20):
        gone = b"x" * 4_000_000
        kept.append(b"y" * 4_000_000)
    del gone
    if _ == 0:
        del kept
for i in range(0, 20, 2):
    kept[i] = None
print((resident() - before) // 1_000_000)
"""


@glibc
def test_where_memory_is_short_it_is_given_back() -> None:
    def held(how: str) -> int:
        command = [sys.executable, "-c", HELD, how]
        return int(subprocess.run(command, check=True, capture_output=True, text=True, env={"PATH": ""}).stdout)

    assert held("give") < 50, "ten of 4 MB are held"
    assert held("not") > 60


@pytest.mark.parametrize(
    ("settings", "expected"),
    [([], "kept"), (["keep_memory=false"], ""), (["checkpoint_activations=true"], "given")],
)
def test_a_run_on_a_cpu(monkeypatch: pytest.MonkeyPatch, settings: list[str], expected: str) -> None:
    called: list[str] = []
    monkeypatch.setattr("potstill.machines.keep_freed", lambda: called.append("kept"))
    monkeypatch.setattr("potstill.machines.give_back", lambda: called.append("given"))
    make_fabric(resolve([], ["kind=train", "student.model=zoo:resnet8", "device=cpu", *settings], {}).config)
    assert "".join(called) == expected
