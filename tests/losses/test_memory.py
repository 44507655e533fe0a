"""Noise-contrastive estimation over the last axis; the memories are tested with CRD."""

import torch

from potstill.losses._memory import nce


def test_nce_reads_the_last_axis_of_any_shape() -> None:
    torch.manual_seed(0)
    log_h = torch.randn(6, 5)
    value, slope = nce(log_h, 50)
    for shape in ((5,), (2, 3, 5)):
        part = log_h[0] if shape == (5,) else log_h.view(shape)
        v, g = nce(part, 50)
        torch.testing.assert_close(v, value[0] if shape == (5,) else value.view(2, 3))
        torch.testing.assert_close(g, slope[0] if shape == (5,) else slope.view(shape))
