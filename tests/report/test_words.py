from typing import Any

import pytest

from potstill.report import words

T, N = words.THIN, words.NBSP


def numbers(difference: dict[str, Any] | None, **more: Any) -> dict[str, Any]:
    def row(model: str, mean: float, n: int = 3) -> dict[str, Any]:
        return {"label": model, "last": {"top1": {"mean": mean, "std": 0.01 if n > 1 else None, "n": n}}}

    table = {"student": row("small", 0.91), "control": row("small", 0.89), "teacher": row("big", 0.95, 1)}
    data = {"source": "flowers", "labelled": None, "train": 100}
    budget = {"epochs": 30, "steps": 3000, "batch": 64}
    return {
        "kind": "distill",
        "seeds": [{"difference": 0.02}] * (1 if difference and difference["low"] is None else 3),
        "table": table,
        "difference": difference,
        "gap_closed": 1 / 3,
        "data": data,
        "budget": budget,
        **more,
    }


def gain(mean: float, low: float | None, high: float | None) -> dict[str, Any]:
    significant = low is not None and high is not None and not low <= 0 <= high
    return {"mean": mean, "low": low, "high": high, "significant": significant, "n": 3, "how": "by t"}


@pytest.mark.parametrize(
    ("difference", "title"),
    [
        (gain(0.02, 0.01, 0.03), "small gains 2.0 points by learning from big"),
        (gain(-0.02, -0.03, -0.01), "small loses 2.0 points by learning from big"),
        (gain(0.02, -0.01, 0.05), "Learning from big makes no significant difference to small"),
        (gain(0.02, None, None), "With one seed, small gains 2.0 points by learning from big"),
        (None, f"small taught by big reaches 91.0{T}%"),
    ],
)
def test_title(difference: dict[str, Any] | None, title: str) -> None:
    assert words.title(numbers(difference)) == title


def test_lead_says_what_against_what_how_surely_and_on_which_budget() -> None:
    said = " ".join(words.lead(numbers(gain(0.02, 0.01, 0.03))))
    for part in (
        f"small reached 91.0{N}±{N}1.0{T}% top-1 on the test pictures of flowers, over 3 seeds",
        f"alone it reached 89.0{N}±{N}1.0{T}%",
        f"The difference is +2.0 points (95{T}% interval +1.0{N}to{N}+3.0).",
        f"The teacher, big, has 95.0{T}%.",
        f"closes 33{T}% of the gap",
        f"the same network, data, seeds and training budget (30 epochs, 3{T}000 steps, batches of 64)",
    ):
        assert part in said
    assert "significant" not in said


def test_lead_says_not_significant_and_claims_no_closed_gap() -> None:
    said = " ".join(words.lead(numbers(gain(0.02, -0.01, 0.05))))
    assert "not significant, the interval covers 0" in said
    assert "closes" not in said


def test_lead_without_control_says_that_nothing_is_known() -> None:
    v = numbers(None)
    v["table"]["control"] = None
    said = " ".join(words.lead(v))
    assert "cannot say what the teacher added" in said
    assert "budget" not in said


def test_lead_names_the_labels_where_not_all_are_known() -> None:
    v = numbers(gain(0.02, 0.01, 0.03), data={"source": "flowers", "labelled": 30, "train": 1078})
    assert words.lead(v)[-1].endswith(f"it learned from the labels, which 30 of the 1{T}078 training pictures have.")


def test_train_has_no_word_of_teachers() -> None:
    v = numbers(None, kind="train")
    assert words.title(v) == f"small reaches 91.0{T}% on the test pictures"
    assert words.lead(v) == [f"small reached 91.0{N}±{N}1.0{T}% top-1 on the test pictures of flowers, over 3 seeds."]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (words.percent(0.98765, 2), f"98.77{T}%"),
        (words.points(0.4271), "+42.7"),
        (words.points(-0.009), "−0.9"),
        (words.points(-0.0001), "0.0"),
        (words.points(None), "–"),
        (words.count(14538), f"14{T}538"),
        (words.count(None), "–"),
        (words.short(25_557_032), f"25.6{T}M"),
        (words.short(999_999), f"1{T}M"),
        (words.short(592), "592"),
        (words.size(19240), f"19.2{T}kB"),
        (words.size(612), f"612{T}B"),
        (words.times(9.917), "9.92×"),
        (words.milliseconds(21.34), f"21.3{T}ms"),
        (words.duration(3.21), f"3.2{T}s"),
        (words.duration(200), f"3{T}m 20{T}s"),
        (words.duration(3900), f"1{T}h 05{T}m"),
        (words.spread({"mean": 0.9167, "std": 0.0092, "n": 5}), f"91.7{N}±{N}0.9"),
        (words.spread({"mean": 0.5, "std": None, "n": 1}), "50.0"),
        (words.clean("a\x00b\u202ec\u200dd\n"), "a\ufffdb\ufffdc\u200dd\n"),
        (words.clean("abcdef", 3), "abc…"),
    ],
)
def test_formats(written: str, expected: str) -> None:
    assert written == expected
