import math

import pytest
import torch

from potstill.errors import ModelError
from potstill.losses import ICKD
from potstill.losses._relations import inner
from potstill.losses.ickd import products


def by_hand(f, h):
    """Mean over the channels of the squared difference of the normalised rows of the two Gram matrices, float64."""
    rows = []
    for a, b in zip(f.double().flatten(2).tolist(), h.double().flatten(2).tolist(), strict=True):

        def gram(m):
            g = [[sum(x * y for x, y in zip(p, q, strict=True)) for q in m] for p in m]
            return [[x / (math.hypot(*row) or 1) for x in row] for row in g]

        total = sum((x - y) ** 2 for p, q in zip(gram(a), gram(b), strict=True) for x, y in zip(p, q, strict=True))
        rows.append(total / len(a))
    return torch.tensor(rows)


@pytest.mark.parametrize(
    ("s_shape", "t_shape"), [((3, 4, 4), (5, 2, 2)), ((3, 2, 2), (6, 2, 2)), ((3, 5, 5), (2, 3, 3))]
)
def test_equals_the_gram_matrices_by_hand_in_both_orders_of_products(s_shape, t_shape):
    torch.manual_seed(0)
    loss = ICKD(s_shape, t_shape)
    s, t = torch.randn(4, *s_shape), torch.randn(4, *t_shape).relu()
    t[1, 0] = 0  # a dead channel
    rows = loss(s, t)
    torch.testing.assert_close(rows, by_hand(loss.embed(s).detach(), t), rtol=1e-3, atol=1e-5)


def test_both_orders_of_products_agree():
    torch.manual_seed(1)
    wide, tall = torch.randn(2, 3, 50).double(), torch.randn(2, 50, 3).double()
    for x, y in ((wide, torch.randn_like(wide)), (tall, torch.randn_like(tall))):
        pairs = ((x, x), (y, y), (x, y))
        for got, (a, b) in zip(products(x, y), pairs, strict=True):
            torch.testing.assert_close(got, ((a @ a.mT) * (b @ b.mT)).sum(2))


def test_a_student_whose_channels_fire_like_the_teachers_has_loss_zero():
    torch.manual_seed(2)
    loss = ICKD((4, 3, 3), (4, 3, 3)).eval()
    with torch.no_grad():
        loss.embed[0].weight.copy_(torch.eye(4)[:, :, None, None])
    f = torch.randn(3, 4, 3, 3)
    torch.testing.assert_close(loss(f, 5 * f), torch.zeros(3), atol=1e-5, rtol=0)
    assert loss(f, f.flip(1)).mean() > 0.1


@pytest.mark.parametrize(("s", "t"), [((8,), (8,)), ((8, 2, 2), (8,)), ((8,), (8, 2, 2))])
def test_vectors_are_refused(s, t):
    with pytest.raises(ModelError, match="maps"):
        ICKD(s, t)


@pytest.mark.parametrize(
    ("C", "s_positions", "t_positions"), [(12, 4, 9), (12, 9, 4), (6, 4, 9), (6, 9, 4), (3, 16, 16), (3, 9, 16)]
)
def test_no_matrix_is_larger_than_the_smaller_form_needs(C, s_positions, t_positions, monkeypatch):
    sizes = []

    def counted(x, y=None):
        sizes.append(inner(x, y).shape[1:].numel())
        return inner(x, y)

    monkeypatch.setattr("potstill.losses.ickd.inner", counted)
    monkeypatch.setattr("potstill.losses.ickd.gram", counted)
    products(torch.randn(2, C, s_positions), torch.randn(2, C, t_positions))
    assert max(sizes) <= C * min(C, max(s_positions, t_positions))


def test_tokens_are_maps_of_their_dimensions():
    torch.manual_seed(3)
    loss = ICKD((5, 4), (5, 6))  # a class token and 2 x 2 patches
    s, t = torch.randn(3, 5, 4), torch.randn(3, 5, 6)
    as_maps = ICKD((4, 2, 2), (6, 2, 2))
    as_maps.load_state_dict(loss.state_dict())
    expected = as_maps(s[:, 1:].mT.unflatten(2, (2, 2)), t[:, 1:].mT.unflatten(2, (2, 2)))
    torch.testing.assert_close(loss(s, t), expected)


def test_neither_the_scale_of_a_map_nor_autocast_counts():
    torch.manual_seed(4)
    loss, s, t = ICKD((3, 4, 4), (5, 4, 4)).eval(), torch.randn(4, 3, 4, 4), torch.randn(4, 5, 4, 4)
    for scale in (1e12, 1e-10):  # the squares of a Gram matrix's entries leave float32 at 1e10 and 1e-9
        torch.testing.assert_close(loss(s, scale * t), loss(s, t))
    with torch.autocast("cpu", torch.bfloat16):
        rows, embedded = loss(s, t), loss.embed(s)
    torch.testing.assert_close(rows, by_hand(embedded.detach(), t), rtol=1e-4, atol=1e-5)
