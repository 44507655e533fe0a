import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from potstill.errors import ConfigError
from potstill.report.read import Said, dig, number, read, read_all


def test_a_finished_run_is_read_whole(finished: Path) -> None:
    run = read(finished)
    assert run.missing == []
    assert [(t.role, t.seed) for t in run.trials] == [(r, s) for r in ("control", "student") for s in (0, 1, 2)]
    assert all(len(t.epochs) == 20 and t.result and t.said for t in run.trials)
    assert run.teacher is not None
    assert run.examples is not None
    assert run.config is not None
    assert "teacher: mlp-64" in run.config


def test_said_is_the_softmax_of_the_logits(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("potstill.report.read.ROWS", 7)  # several pieces, the last one short
    said = read(finished).teacher
    z = load_file(finished / "teacher.logits.safetensors")["logits"].astype(np.float64)
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    assert isinstance(said, Said)
    assert said.top.tolist() == p.argmax(1).tolist()
    np.testing.assert_allclose(said.confidence, p.max(1), rtol=1e-5)


def test_large_logits_do_not_overflow(run: Path) -> None:
    save_file(
        {"logits": np.array([[6e4, -6e4], [0, 0]], np.float16), "y": np.array([0, 1])},
        run / "teacher.logits.safetensors",
    )
    said = read(run).teacher
    assert said is not None
    assert said.confidence.tolist() == [1.0, 0.5]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: None, "found nothing"),
        (lambda p: p.write_text("x"), "found a file"),
        (lambda p: p.mkdir(), "found an empty folder"),
        (lambda p: (p.mkdir(), (p / "weights.pt").write_text("x")), "found weights.pt"),
        (lambda p: (p.mkdir(), (p / "run.json").write_text('{"format"')), "cannot be read"),
        (lambda p: (p.mkdir(), (p / "run.json").write_bytes(b"\xff\xfe\x00")), "cannot be read"),
        (lambda p: (p.mkdir(), (p / "run.json").write_text("[" * 100_000)), "cannot be read"),
        (lambda p: (p.mkdir(), (p / "run.json").write_text("[1]")), "must hold a mapping, got list"),
        (lambda p: (p.mkdir(), (p / "run.json").write_text('{"format": 2}')), "format 2"),
    ],
)
def test_what_is_no_run_directory_is_refused(tmp_path: Path, make: Callable[[Path], object], message: str) -> None:
    make(tmp_path / "it")
    with pytest.raises(ConfigError, match=message) as fault:
        read(tmp_path / "it")
    assert str(tmp_path / "it") in str(fault.value)


def test_the_folder_of_runs_is_refused_with_the_latest_run_as_hint(run: Path) -> None:
    with pytest.raises(ConfigError) as fault:
        read(run.parent)
    assert fault.value.hint == f"potstill report {run}"


def test_none_and_twice_are_refused(run: Path) -> None:
    with pytest.raises(ConfigError, match="at least one"):
        read_all([])
    with pytest.raises(ConfigError, match="given twice"):
        read_all([run, run / ".." / run.name])


def test_a_cut_off_last_line_is_left_out_and_said(run: Path) -> None:
    file = run / "student-s1" / "metrics.jsonl"
    file.write_text(file.read_text()[:-40])
    read_run = read(run)
    trial = next(t for t in read_run.trials if t.name == "student-s1")
    assert len(trial.epochs) == 19
    assert read_run.missing == ["student-s1/metrics.jsonl: 1 of 20 lines cut off or unreadable, left out"]


def test_everything_missing_is_named(run: Path, edit: Callable[..., Path]) -> None:
    shutil.rmtree(run / "control-s2")
    (run / "student-s2" / "result.json").unlink()
    (run / "student-s0" / "test.logits.safetensors").write_bytes(b"\x00" * 20)
    (run / "teacher.logits.safetensors").unlink()
    (run / "config.yaml").unlink()
    edit(lambda facts: facts.update(status="failed", results=None))
    told = "\n".join(read(run).missing)
    for part in (
        "run.json has no final results (status: failed)",
        "trial control-s2 has not begun",
        "student-s2 has not finished: no result.json after 20 epochs",
        "student-s0/test.logits.safetensors cannot be read",
        "teacher.logits.safetensors does not exist",
        "config.yaml does not exist",
    ):
        assert part in told
    assert len(read(run).missing) == 6


@pytest.mark.parametrize(
    "arrays",
    [
        {"logits": np.zeros((4, 3), np.float16), "y": np.zeros(3, np.int64)},
        {"logits": np.zeros((0, 3), np.float16), "y": np.zeros(0, np.int64)},
        {"logits": np.zeros((2, 3), np.int32), "y": np.zeros(2, np.int64)},
        {"logits": np.full((2, 3), np.nan, np.float16), "y": np.zeros(2, np.int64)},
        {"logits": np.zeros((2, 3), np.float16), "y": np.array([0, 10**12])},
        {"logits": np.zeros((2, 3), np.float16), "y": np.array([-1, 0])},
        {"logits": np.zeros((2, 3), np.float16)},
    ],
)
def test_unfit_logits_are_refused_and_said(run: Path, arrays: dict[str, np.ndarray]) -> None:
    save_file(arrays, run / "teacher.logits.safetensors")
    read_run = read(run)
    assert read_run.teacher is None
    assert len(read_run.missing) == 1


def test_unfit_examples_are_refused_and_said(run: Path) -> None:
    arrays = load_file(run / "examples.safetensors")
    save_file({**arrays, "images": arrays["images"].astype(np.float32)}, run / "examples.safetensors")
    read_run = read(run)
    assert read_run.examples is None
    assert "examples.safetensors: expected uint8 images" in read_run.missing[0]


@pytest.mark.parametrize("nonsense", [None, 3, "x", [], [1], {"last": 4}, {"seeds": {}}])
@pytest.mark.parametrize(
    "key", ["results", "seeds", "data", "student", "teacher", "losses", "budget", "environment", "git"]
)
def test_run_json_of_any_form_is_read(run: Path, edit: Callable[..., Path], key: str, nonsense: object) -> None:
    from potstill.report.numbers import collect

    edit(lambda facts: facts.update({key: nonsense}))
    assert json.dumps(collect(read(run)))


def test_dig_and_number() -> None:
    assert dig({"a": {"b": 1}}, "a", "b") == 1
    assert dig({"a": [1]}, "a", "b") is None
    assert [number(x) for x in (1, 0.5, True, float("nan"), float("inf"), "1", None)] == [1.0, 0.5, *[None] * 5]
