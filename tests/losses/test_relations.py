"""Vectors of a batch: what is refused, and where numbers are noise."""

import pytest
import torch

from potstill.errors import ModelError
from potstill.losses._relations import deviations, unit, vectors


@pytest.mark.parametrize(("s", "t"), [((3, 4), (2, 4)), ((3,), (3, 4)), ((3, 4), (3,)), ((3,), (3,))])
def test_what_is_not_a_vector_of_each_sample_is_refused(s: tuple[int, ...], t: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match="one vector or map of each sample"):
        vectors(torch.zeros(s), torch.zeros(t))


def test_maps_become_float32_vectors_whose_lengths_may_differ() -> None:
    s, t = vectors(torch.ones(3, 2, 2, 2).half(), torch.ones(3, 5))
    assert (s.shape, s.dtype, t.shape) == ((3, 8), torch.float32, (3, 5))


@pytest.mark.parametrize("dim", [0, 1])
def test_deviations_by_hand(dim: int) -> None:
    x = torch.tensor([[1.0, 2.0, 6.0], [3.0, 5.0, 7.0]])
    torch.testing.assert_close(deviations(x, dim), x - x.mean(dim, keepdim=True))


@pytest.mark.parametrize("size", [1e-9, 1.0, 1e9])
def test_deviations_are_noise_below_a_millionth_of_the_size(size: float) -> None:
    sign = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64)
    x = (size * torch.stack([10 + 1.05e-5 * sign, 10 + 0.95e-5 * sign])).requires_grad_()
    said = deviations(x)
    torch.testing.assert_close(said[0], size * 1.05e-5 * sign, rtol=1e-6, atol=0)
    assert said[1].tolist() == [0, 0, 0, 0]
    (slope,) = torch.autograd.grad((said * sign).sum(), x)
    assert slope[0].abs().sum() > 0
    assert slope[1].abs().sum() == 0


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_directions_and_their_slopes(dim: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 4, 2, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(unit(x, dim), x / x.norm(dim=dim, keepdim=True))
    assert torch.autograd.gradcheck(lambda x: unit(x, dim), x)


def test_a_zero_vector_has_no_direction_and_no_slope() -> None:
    x = torch.tensor([[0.0, 0.0], [3.0, 4.0]], requires_grad=True)
    u = unit(x)
    torch.testing.assert_close(u, torch.tensor([[0.0, 0.0], [0.6, 0.8]]))
    (slope,) = torch.autograd.grad(u[:, 0].sum(), x)
    torch.testing.assert_close(slope, torch.tensor([[0.0, 0.0], [0.64 / 5, -0.48 / 5]]))
