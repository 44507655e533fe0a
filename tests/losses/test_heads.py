"""A classifier as losses hold it; its refusals are tested with the losses that use it."""

import pytest
import torch
from torch import nn

from potstill.losses._heads import FrozenHead


@pytest.mark.parametrize("bias", [True, False])
def test_a_head_in_half_precision_is_kept_and_computed_in_float32(bias: bool) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(512, 3, bias=bias).half()
    head = FrozenHead(linear, 512, "teacher", "a loss")
    assert {b.dtype for b in head.buffers()} == {torch.float32}
    v = torch.randn(4, 512).half()
    said = head(v)
    assert said.dtype == torch.float32
    torch.testing.assert_close(said, linear.float()(v.float()))


def test_what_it_keeps_is_a_copy() -> None:
    linear = nn.Linear(2, 3)
    head = FrozenHead(linear, 2, "teacher", "a loss")
    before = head(torch.ones(1, 2))
    with torch.no_grad():
        linear.weight += 1
        linear.bias += 1
    assert torch.equal(head(torch.ones(1, 2)), before)
