import pytest
import torch
import torch.nn.functional as F

from potstill.losses._squares import HingeSquares, square_mean, square_sums


@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 2, 5), (1, 2, 3), (1, 1)])
def test_it_is_the_mean_of_each_sample_and_its_gradients_are_right(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    a, b = (torch.randn(shape, dtype=torch.float64, requires_grad=True) for _ in range(2))
    torch.testing.assert_close(square_mean(a, b), F.mse_loss(a, b, reduction="none").flatten(1).mean(1))
    assert torch.autograd.gradcheck(square_mean, (a, b))
    assert torch.autograd.gradcheck(lambda a, b: square_mean(a, b, a.detach() > 0), (a, b))
    where = a > 0
    torch.testing.assert_close(square_mean(a, b, where), ((a - b).square() * where).flatten(1).mean(1))


def test_half_precision_is_summed_in_float32_and_layouts_stay() -> None:
    a = torch.full((2, 4, 30, 30), 300.0, dtype=torch.float16).to(memory_format=torch.channels_last).requires_grad_()
    loss = square_mean(a, torch.zeros(2, 4, 30, 30))
    assert loss.dtype == torch.float32
    assert loss.tolist() == [90_000.0, 90_000.0]  # beyond float16
    (slope,) = torch.autograd.grad(loss.sum(), a)
    assert slope.dtype == torch.float16
    assert slope.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(slope, torch.full_like(slope, 600 / 3600))


def test_a_batch_of_no_samples_has_an_empty_gradient() -> None:
    a = torch.randn(0, 4, requires_grad=True)
    square_mean(a, torch.randn(0, 4)).sum().backward()
    assert a.grad is not None
    assert a.grad.shape == (0, 4)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_sums_by_channel(layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    a, b = (torch.randn(2, 3, 4, 5, dtype=torch.float64).contiguous(memory_format=layout) for _ in range(2))
    a.requires_grad_()
    torch.testing.assert_close(square_sums(a, b, kept=2), (a - b).square().sum((2, 3)))
    assert torch.autograd.gradcheck(lambda a: square_sums(a, b, kept=2), a)


@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 4, 5), (1, 1, 1, 1)])
def test_the_hinge_is_that_of_the_signs_and_its_gradient_is_right(shape: tuple[int, ...]) -> None:
    torch.manual_seed(1)
    s = (1.5 * torch.randn(shape, dtype=torch.float64)).requires_grad_()
    t = torch.randn(shape, dtype=torch.float64).relu()  # zero counts as not firing
    sign = torch.where(t > 0, 1.0, -1.0)
    torch.testing.assert_close(HingeSquares.apply(s, t, 0.7), (0.7 - sign * s).relu().square().flatten(1).sum(1))
    assert torch.autograd.gradcheck(lambda s: HingeSquares.apply(s, t, 0.7), s)
    half = torch.full((1, 300), -300.0, dtype=torch.float16, requires_grad=True)  # its squares are beyond float16
    assert HingeSquares.apply(half, torch.ones(1, 300), 0.0).item() == pytest.approx(300 * 300**2)
