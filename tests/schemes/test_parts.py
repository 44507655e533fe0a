import pytest
import torch
from torch import Tensor

from potstill.losses import AB, AFD, AT, CRD, KD, NST, OFD, PKT, RKD, VID, FitNet, ReviewKD
from potstill.losses.base import Loss
from potstill.schemes.parts import additive, chosen, part, relational, terms
from tests.schemes.spot_case import B, batch

SHAPES = [(4, 8, 8), (6, 4, 4), (8, 2, 2)]


def maps(seed: int) -> list[Tensor]:
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(B, *shape, generator=g) for shape in SHAPES]


@pytest.mark.parametrize(
    ("loss", "sums"),
    [
        (AT(), True),
        (NST(), True),
        (VID(SHAPES, SHAPES), True),
        (ReviewKD(SHAPES, SHAPES), False),
        (AFD(SHAPES, SHAPES), False),
    ],
    ids=lambda x: type(x).__name__ if isinstance(x, Loss) else None,
)
def test_which_losses_are_the_sum_of_their_spots(loss: Loss, sums: bool) -> None:
    before = {k: v.clone() for k, v in loss.state_dict().items()}
    rng = torch.get_rng_state()
    assert additive(loss, maps(0), maps(1), batch()) == sums
    assert torch.equal(torch.get_rng_state(), rng)
    assert all(torch.equal(v, before[k]) for k, v in loss.state_dict().items())


def test_the_parts_add_up_and_train_the_losses_own_parameters() -> None:
    torch.manual_seed(0)
    loss = VID(SHAPES, SHAPES).train()
    found = terms(loss, maps(0), maps(1), batch())
    assert torch.equal(torch.stack(found).sum(0), loss(maps(0), maps(1)))
    found[1].mean().backward()
    assert all((p.grad is not None) == n.split(".")[1].startswith("1") for n, p in loss.named_parameters())
    assert part(loss, 0, 3).training
    assert not part(loss.eval(), 0, 3).training


class Weighted(Loss):
    """Counts each spot twice as much as the one before, and says what each adds."""

    def terms(self, s: list[Tensor], t: list[Tensor], batch: object = None) -> list[Tensor]:
        return [2.0**i * (f - g).square().flatten(1).mean(1) for i, (f, g) in enumerate(zip(s, t, strict=True))]

    def forward(self, s: list[Tensor], t: list[Tensor], batch: object = None) -> Tensor:  # type: ignore[override]
        return torch.stack(self.terms(s, t)).sum(0)


def test_a_loss_may_say_itself_what_its_spots_add() -> None:
    assert additive(Weighted(), maps(0), maps(1), batch())
    for loss in (
        AB(SHAPES, SHAPES),
        OFD(SHAPES, SHAPES, [None] * 3),
    ):  # weighted by the place: no sum of losses of one spot
        assert additive(loss, maps(0), maps(1), batch()) == hasattr(loss, "terms")


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (RKD(), True),
        (PKT(), True),
        (KD(), False),
        (CRD((5,), (5,), 24, None, negatives=8), False),
        (FitNet((5,), (5,)), False),
    ],
    ids=lambda x: type(x).__name__ if isinstance(x, Loss) else None,
)
def test_which_losses_compare_samples(loss: Loss, expected: bool) -> None:
    s, t = torch.randn(B, 5), torch.randn(B, 5)
    before = {k: v.clone() for k, v in loss.state_dict().items()}
    assert relational(loss, [s], [t], batch(), single=True) == expected
    assert all(torch.equal(v, before[k]) or v.isnan().all() for k, v in loss.state_dict().items())


def test_some_samples_of_a_batch() -> None:
    few = chosen(batch()._replace(targets=torch.eye(B)), torch.tensor([1, 4]))
    assert few.ids.tolist() == [1, 4]
    assert few.targets is not None
    assert few.targets.argmax(1).tolist() == [1, 4]
    assert (len(few.x), few.progress) == (2, 0.5)
