"""Labels as the logit losses read them."""

import torch

from potstill.losses._logits import labelled
from potstill.types import Batch


def test_a_sample_without_label_has_class_0_and_counts_0() -> None:
    none = torch.zeros(3, dtype=torch.long)
    y, has = labelled(Batch(torch.zeros(3, 1, 2, 2), torch.tensor([2, -1, 0]), none, none), "a loss")
    assert y.tolist() == [2, 0, 0]
    assert has.dtype == torch.float32
    assert has.tolist() == [1, 0, 1]
