"""A teacher that says no more than the losses read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from potstill.cache import Cached, Layout, Store
from potstill.cache.place import Plan, place
from potstill.data.arrays import ArrayData
from potstill.losses import AB, AT, CATKD, CE, FSP, KD, FitNet, Loss
from potstill.reduced import Reduced, reduction
from potstill.schemes import Link, Scheme, offline, total
from potstill.types import Batch

SHAPES = [(4, 8, 8), (6, 4, 4)]


class Net(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 4, 3, padding=1)
        self.b = nn.Conv2d(4, 6, 3, 2, padding=1)
        self.fc = nn.Linear(6, width)

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.b(self.a(x).relu())
        logits: Tensor = self.fc(hidden.relu().mean((2, 3)))
        return logits


def scheme(*links: Link) -> Scheme:
    torch.manual_seed(0)
    return offline(Net(5), Net(5), [Link(CE(), teacher=None), Link(KD(4.0)), *links])


def batch(n: int = 6) -> Batch:
    g, ids = torch.Generator().manual_seed(1), torch.arange(n)
    return Batch(torch.rand(n, 3, 8, 8, generator=g), ids % 5, ids, torch.zeros_like(ids))


def at(p: float = 2.0) -> Link:
    return Link(AT(p, SHAPES, SHAPES), 1000.0, at=["a", "b"])


def put(made: Scheme, folder: Path, said: Batch) -> Layout:
    """A finished cache in the place of the teacher."""
    kept = Reduced(made.nets["teacher"], made.links)  # type: ignore[arg-type]
    layout = Layout.of(kept(said.x), "float32", kept.packed)
    store = Store(folder, np.arange(len(said.ids)), 1, layout.nbytes, {})
    Cached(store, layout, kept)(said)
    made.nets["teacher"] = Cached(store, layout, None)
    return layout


def gradients(made: Scheme, said: Batch) -> tuple[dict[str, Tensor], list[Tensor]]:
    made.zero_grad()
    losses = made(said)
    total(losses).backward()
    return {k: v.detach() for k, v in losses.items()}, [p.grad.clone() for p in made.parameters() if p.grad is not None]


@pytest.mark.parametrize(
    ("links", "fields"),
    [
        ([at()], {"logits": "float32", "at:0": "float32", "at:1": "float32"}),
        ([Link(AB(SHAPES[0], SHAPES[0]), 1.0, at="a")], {"logits": "float32", "ab:0": "signs"}),
        (
            [Link(CATKD(SHAPES[1], SHAPES[1], nn.Linear(6, 5), nn.Linear(6, 5)), 1.0, at="b")],
            {"logits": "float32", "catkd:0": "float32"},
        ),
        (
            [Link(AB(SHAPES, SHAPES), 1.0, at=["a", "b"])],
            {"logits": "float32", "ab:0": "signs", "ab:1": "signs"},
        ),
        (
            [at(), Link(FitNet(SHAPES[1], SHAPES[1]), 1.0, at="b"), Link(FSP(SHAPES, SHAPES), 1.0, at=["a", "b"])],
            {"logits": "float32", "at:0": "float32", "at:1": "float32", "b": "float32", "fsp:0": "float32"},
        ),
    ],
    ids=["at", "ab", "cat_kd", "abs", "several"],
)
def test_a_scheme_learns_from_what_is_kept_as_from_the_teacher(
    links: list[Link], fields: dict[str, str], tmp_path: Path
) -> None:
    said, made = batch(), scheme(*links)
    losses, slopes = gradients(made, said)
    layout = put(made, tmp_path, said)
    assert {spot: f.kind for spot, f in layout.fields.items()} == fields
    kept, again = gradients(made, said)
    assert kept.keys() == losses.keys()
    for name in losses:
        torch.testing.assert_close(kept[name], losses[name])
    torch.testing.assert_close(again, slopes)


def test_eleven_of_them_keep_their_order(tmp_path: Path) -> None:
    """Not that of their names, in which 10 comes before 2."""
    many = [SHAPES[0]] * 11
    net = Link(AT(2.0, many, many), at=[("a", "a")] * 11)
    said = {"logits": torch.zeros(2, 5), "a": torch.zeros(2, 4, 8, 8)}
    kept = {f"at:{i}": torch.full((2, 64), float(i)) for i in range(11)}
    assert sorted(kept) != [*kept]
    heard = net.heard({"student": said, "teacher": {k: kept[k] for k in sorted(kept)}})["teacher"]
    assert [float(f[0, 0]) for f in heard] == [float(i) for i in range(11)]


def test_what_reduces_and_where_is_in_the_key(tmp_path: Path) -> None:
    said = batch()
    data = ArrayData((said.x * 255).to(torch.uint8).numpy(), said.y.numpy(), np.arange(6))

    def name(link: Link) -> str:
        made = scheme(link)
        live = Reduced(made.nets["teacher"], made.links)  # type: ignore[arg-type]
        facts: dict[str, Any] = {"data": data, "fingerprint": "x", "views": None, "reduced": live.reduced}
        return place(live, Plan(others=live.packed, folder=tmp_path), said.x, **facts).folder.name

    one = name(at())
    assert name(at()) == one
    others = [at(3.0), Link(AT(2.0, SHAPES[:1], SHAPES[:1]), 1000.0, at=["a"]), Link(FitNet(*SHAPES), at="a")]
    assert len({one, *map(name, others)}) == 4
    assert name(Link(AT(2.0, SHAPES, SHAPES), 7.0, at=["a", "b"])) == one, "a weight changes nothing"


def test_what_is_said_is_told_apart_within_a_run() -> None:
    """Stages of one run may hear one net at the same spots and keep different things."""

    def says(*links: Link) -> tuple[str, ...]:
        made = scheme(*links)
        return Reduced(made.nets["teacher"], made.links).says  # type: ignore[arg-type]

    hint, other = Link(FitNet(SHAPES[0], SHAPES[0]), at="a"), Link(FitNet(SHAPES[1], SHAPES[1]), at="b")
    said = [says(at()), says(at(3.0)), says(hint), says(other), says(at(), hint), says()]
    assert len({*said}) == len(said)
    assert says(at()) == said[0]


def test_links_of_another_teacher_are_its_own() -> None:
    torch.manual_seed(0)
    two = [Link(KD(4.0)), Link(AT(2.0, SHAPES, SHAPES), at=["a", "b"], teacher="old")]
    made = Scheme({"student": Net(5), "teacher": Net(5), "old": Net(5)}, two, frozen=["teacher", "old"])
    assert {*Reduced(made.nets["teacher"], made.links)(batch().x)} == {"logits"}  # type: ignore[arg-type]


def test_logits_that_nobody_reads_are_not_kept() -> None:
    made = offline(Net(5), Net(5), [at()])
    assert {*Reduced(made.nets["teacher"], made.links)(batch().x)} == {"at:0", "at:1"}  # type: ignore[arg-type]


def test_the_code_of_a_loss_and_its_settings_are_known_by_it_but_not_what_it_trains() -> None:
    class Other(AB):
        """Another code."""

    torch.manual_seed(0)
    first: Loss = AB((4, 8, 8), (6, 4, 4))
    assert reduction(first) == reduction(AB((4, 8, 8), (6, 4, 4)))
    assert reduction(first) != reduction(AB((4, 8, 8), (6, 4, 4), margin=2.0))
    assert reduction(first) != reduction(Other((4, 8, 8), (6, 4, 4)))
