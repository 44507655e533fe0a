import itertools

import pytest
import torch

from potstill.adapters import ConvReg
from potstill.schemes.bridges import Bridge

SHAPES = [(4, 8, 8), (6, 8, 8), (6, 4, 4), (5, 3, 7), (17, 4), (16, 4), (10, 6), (12,)]


@pytest.mark.parametrize(("source", "target"), itertools.product(SHAPES, SHAPES))
def test_from_any_feature_to_any(source: tuple[int, ...], target: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    bridge = Bridge(source, target, "norm").train()
    for n in (1, 3):
        f = torch.randn(n, *source, requires_grad=True)
        out = bridge(f)
        assert out.shape == (n, *target)
    out.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in bridge.parameters())
    assert f.grad is not None


def test_one_sample_of_one_position_is_served_in_training() -> None:
    assert Bridge((4, 1, 1), (6, 1, 1), "norm").train()(torch.rand(1, 4, 1, 1)).isfinite().all()


def test_what_ends_a_bridge() -> None:
    f = torch.randn(8, 4, 8, 8)
    ends = {end: Bridge((4, 8, 8), (6, 8, 8), end)(f) for end in ("plain", "norm", "norm+relu")}  # type: ignore[arg-type]
    assert (ends["norm+relu"] >= 0).all()
    assert (ends["plain"] < 0).any()
    assert torch.allclose(ends["norm"].mean((0, 2, 3)), torch.zeros(6), atol=1e-5)
    assert not torch.allclose(ends["plain"].mean((0, 2, 3)), torch.zeros(6), atol=1e-3)
    assert (Bridge((4,), (6,), "norm+relu")(torch.randn(9, 4)) >= 0).all()
    assert isinstance(Bridge((4, 8, 8), (6, 8, 8)).map, ConvReg)
