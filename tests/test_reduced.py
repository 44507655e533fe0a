"""A teacher that says no more than the losses read."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from potstill.cache import Cached, Layout, Store
from potstill.cache.place import Plan, place
from potstill.data.arrays import ArrayData
from potstill.errors import ModelError
from potstill.losses import AB, AT, CATKD, CE, FSP, KD, FitNet, Loss
from potstill.methods.plan import loss_class
from potstill.reduced import Reduced, prove, reduction
from potstill.schemes import Link, Scheme, offline, total
from potstill.types import Batch, Kept

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
    says = kept(said.x)
    layout = Layout.of(says, "float32", dict.fromkeys(kept.packed(says, "signs"), "signs"))
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
        return place(live, Plan(folder=tmp_path), said.x, **facts).folder.name

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
    signs = [Link(AB(shape, shape), at=spot) for spot, shape in zip("ab", SHAPES, strict=True)]
    said = [says(at()), says(at(3.0)), says(hint), says(other), says(at(), hint), says(), *map(says, signs)]
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


class Sketch(Loss):
    """A loss of a user's own."""

    packs = "values"

    def __init__(self, slope: float = 0.1, seed: int = 0) -> None:
        super().__init__()
        self.act = nn.LeakyReLU(slope)
        self.norm = nn.BatchNorm1d(6)
        self.map = nn.Linear(6, 6)
        self.register_buffer("fixed", torch.randn(6, 2, generator=torch.Generator().manual_seed(seed)))

    def forward(self, s: Any, t: Any, batch: Batch | None = None) -> Tensor:
        theirs = t if isinstance(t, Kept) else self.reduce(t)
        return (self.reduce(self.norm(s.mean((2, 3))))[0] - theirs[0]).square().mean(1)

    def reduce(self, t: Any) -> Kept:
        return Kept([self.act(t.mean((2, 3)) if t.ndim == 4 else t) @ self.fixed])


def test_a_loss_is_known_by_what_it_reduces_by() -> None:
    """Else by all that it holds, but what it trains."""
    first = AB((4, 8, 8), (6, 4, 4))
    assert reduction(first) == reduction(AB((8, 8, 8), (6, 4, 4), margin=2.0)), "only signs are read"
    assert reduction(AT(2.0, SHAPES, SHAPES)) != reduction(AT(2.0, [(4, 4, 4), (6, 2, 2)], SHAPES)), "other resolutions"
    heads = [nn.Linear(6, 5) for _ in range(3)]
    maps = [CATKD(SHAPES[1], SHAPES[1], heads[i], heads[j]) for i, j in ((0, 1), (2, 1), (0, 2))]
    assert reduction(maps[0]) == reduction(maps[1]) != reduction(maps[2]), "the teacher's classifier counts"

    class Other(Sketch):
        packs = "signs"

    known = {reduction(loss) for loss in (Sketch(), Sketch(0.2), Sketch(seed=1))}
    assert len(known) == 3
    same = Sketch()
    with torch.no_grad():
        same.map.weight.add_(1)
        same.norm(torch.randn(4, 6))
    assert reduction(same) == reduction(Sketch())


CODE = """from torch import Tensor, nn, no_grad
from potstill import Loss
from potstill.types import Kept

SCALE = 1.0

def helped(t):
    return t.sum(1)  # helper

class Mine(Loss):
    packs = "values"

    @staticmethod
    def still(t):
        return t.sum(1)  # static

    def forward(self, s, t, batch=None):
        return s.sum(1)

    @no_grad()
    def reduce(self, t):
        parts = [f.sum() for f in t]  # comprehension
        return Kept([SCALE * helped(t)])
"""


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("t.sum(1)  # helper", "t.mean(1)"),
        ("t.sum(1)  # static", "t.mean(1)"),
        ("f.sum()", "f.mean()"),
        ("SCALE = 1.0", "SCALE = 2.0"),
        ("* helped(t)", "* -helped(t)"),
    ],
)
def test_whatever_changes_in_the_file_of_a_users_loss_is_known(before: str, after: str, tmp_path: Path) -> None:
    def known(text: str) -> str:
        (tmp_path / "mine.py").write_text(text)
        return reduction(loss_class(f"{tmp_path / 'mine.py'}:Mine")[0]())

    assert CODE.count(before) == 1
    assert known(CODE) == known(CODE)
    assert known(CODE) != known(CODE.replace(before, after))


class Wrong(Sketch):
    """What it reduces is not what it reads."""

    def reduce(self, t: Any) -> Kept:
        return Kept([(2.0 if t.shape[1:] == SHAPES[1] else 1.0) * f for f in super().reduce(t)])

    def forward(self, s: Any, t: Any, batch: Batch | None = None) -> Tensor:
        theirs = t[0] if isinstance(t, Kept) else super().reduce(t)[0]
        return (super().reduce(s)[0] - theirs).square().mean(1)


class NoKept(Sketch):
    def reduce(self, t: Any) -> Any:
        return t.mean((2, 3))


class NotTaken(Sketch):
    def forward(self, s: Any, t: Any, batch: Batch | None = None) -> Tensor:
        return (s - t).square().mean((1, 2, 3))


@pytest.mark.parametrize(
    ("cls", "said"),
    [
        (Sketch, None),
        (Wrong, "'mine' does not take what its reduce.. gives .* it gives other rows"),
        (NoKept, r"'mine': reduce\(\) must give a potstill.types.Kept of tensors \(B, ...\), got Tensor"),
        (NotTaken, "'mine' does not take what its reduce.. gives .* TypeError"),
    ],
)
def test_a_users_reduce_is_tried_beforehand(cls: type[Loss], said: str | None) -> None:
    made = offline(Net(5), Net(5), [Link(cls(), at="b", name="mine")])
    made.train()
    live = Reduced(made.nets["teacher"], made.links)  # type: ignore[arg-type]
    if said is None:
        before = copy.deepcopy(made.state_dict())
        prove(made, live, batch().x)
        assert all(torch.equal(before[k], v) for k, v in made.state_dict().items())
        assert made.nets["student"].training
    else:
        with pytest.raises(ModelError, match=said):
            prove(made, live, batch().x)


def test_one_number_a_sample_can_be_kept() -> None:
    layout = Layout.of({"mine:0": torch.randn(4)}, "float32")
    said = {"mine:0": torch.arange(4.0)}
    assert torch.equal(layout.decode(layout.encode(said))["mine:0"], said["mine:0"])
