import pytest
import torch
from torch import nn

from potstill.adapters import ConvReg, resized
from potstill.errors import ModelError


@pytest.mark.parametrize(
    ("s", "t"),
    [
        ((4, 8, 8), (6, 8, 8)),
        ((4, 8, 8), (6, 4, 4)),
        ((4, 4, 4), (6, 8, 8)),
        ((4, 8, 8), (6, 2, 2)),  # ratio 4: RepDistiller fails here
        ((4, 2, 2), (6, 8, 8)),
        ((4, 7, 7), (6, 4, 4)),
        ((4, 8, 8), (6, 7, 5)),
        ((4, 6, 9), (6, 9, 3)),
        ((4, 32, 32), (2, 1, 1)),
        ((5,), (7,)),
        ((9, 5), (4, 7)),
        ((4, 5), (9, 7)),
    ],
)
@pytest.mark.parametrize("activation", ["relu", "none"])
def test_maps_any_shape_to_any_other_of_its_kind(s: tuple[int, ...], t: tuple[int, ...], activation: str) -> None:
    adapter = ConvReg(s, t, activation)  # type: ignore[arg-type]
    x = torch.randn(3, *s, requires_grad=True)
    y = adapter(x)
    assert y.shape == (3, *t)
    assert (y.min() >= 0) == (activation == "relu")
    y.square().mean().backward()
    assert all(p.grad is not None for p in adapter.parameters())
    assert x.grad is not None


def test_the_published_convolutions() -> None:
    def conv(s: int, t: int) -> tuple[type, object, object]:
        m = ConvReg((2, s, s), (3, t, t)).map
        return type(m), m.kernel_size, m.stride

    assert conv(8, 4) == (nn.Conv2d, (3, 3), (2, 2))
    assert conv(4, 8) == (nn.ConvTranspose2d, (4, 4), (2, 2))
    assert conv(8, 8) == (nn.Conv2d, (1, 1), (1, 1))
    assert conv(8, 7) == (nn.Conv2d, (2, 2), (1, 1))


def test_refuses_features_of_different_kinds() -> None:
    with pytest.raises(ModelError, match="no adapter"):
        ConvReg((4, 8, 8), (4,))


def test_resizing_averages_down_and_interpolates_up() -> None:
    f = torch.arange(16.0).view(1, 1, 4, 4)
    assert torch.equal(resized(f, (2, 2)), torch.tensor([[[[2.5, 4.5], [10.5, 12.5]]]]))
    assert resized(f, (8, 8)).shape == (1, 1, 8, 8)
    assert resized(f, (4, 4)) is f


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [(2, 3), (1, 1), (4, 3), (3, 4), (4, 2)])
def test_the_gradient_of_averaging_down(size: tuple[int, int], layout: torch.memory_format) -> None:
    f = torch.randn(2, 3, 4, 6, dtype=torch.float64).contiguous(memory_format=layout).requires_grad_()
    torch.testing.assert_close(resized(f, size), torch.nn.functional.adaptive_avg_pool2d(f, size))
    assert torch.autograd.gradcheck(lambda f: resized(f, size), f)
    resized(f, size).square().sum().backward()
    assert f.grad is not None
    assert f.grad.is_contiguous(memory_format=layout)
