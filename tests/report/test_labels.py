from typing import Any

import pytest

from potstill.report import labels


def card(model: str, **kwargs: Any) -> dict[str, Any]:
    return {"model": model, "kwargs": {**kwargs, "num_classes": 10, "in_channels": 1}}


@pytest.mark.parametrize(
    ("student", "teacher", "names"),
    [
        (card("zoo:resnet8x4"), card("zoo:resnet32x4"), ("resnet8x4", "resnet32x4")),
        (card("timm:resnet18", pretrained=True), card("zoo:cnn"), ("timm:resnet18", "cnn")),
        (
            card("zoo:cnn", widths=[8, 16]),
            card("zoo:cnn", widths=[16, 32]),
            ("cnn (widths 8-16)", "cnn (widths 16-32)"),
        ),
        (card("zoo:cnn"), card("zoo:cnn"), ("cnn", "cnn")),
        (card("zoo:cnn", widths=[8]), None, ("cnn", None)),
        (None, None, (None, None)),
        ({"model": 3}, [], (None, None)),
    ],
)
def test_nets(student: Any, teacher: Any, names: tuple[str | None, str | None]) -> None:
    assert labels.nets(student, teacher) == names


@pytest.mark.parametrize(
    ("loss", "at", "weight"),
    [
        ({"at": "logits", "weight": 2}, "logits", "2"),
        ({"at": [["a", "a"], ["b", "c"]], "weight": 0.1}, "a; b ← c", "0.1"),
        (
            {"at": [["a", "b"]], "shapes": [[[4, 8, 8], [16, 8, 8]]], "weight": "cosine"},
            "a ← b (4×8×8 ← 16×8×8)",
            "cosine",
        ),
        ({"at": [["a", "a"]], "shapes": [[[4], [4]]], "weight": {"end": 1}}, "a (4)", "end 1"),
        ({}, "–", "None"),
        ({"at": [None, 3], "shapes": 7, "weight": []}, "3", "[]"),
    ],
)
def test_link(loss: dict[str, Any], at: str, weight: str) -> None:
    told = labels.link(loss)
    assert (told["at"], told["weight"]) == (at, weight)
