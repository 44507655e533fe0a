import pytest
import torch
import torch.nn.functional as F

from potstill.losses import CE
from potstill.types import Batch


def batch(y: list[int], targets: torch.Tensor | None = None) -> Batch:
    t = torch.tensor(y)
    return Batch(t, t, t, t, targets)


def test_each_sample_has_its_own() -> None:
    z = torch.randn(3, 4)
    expected = [-F.log_softmax(z[b], 0)[y].item() for b, y in enumerate([1, 0, 3])]
    assert CE()(z, batch=batch([1, 0, 3])).tolist() == pytest.approx(expected, rel=1e-5)


def test_a_sample_without_label_counts_nothing() -> None:
    z = torch.randn(3, 4, requires_grad=True)
    loss = CE()(z, batch=batch([1, -1, -1]))
    assert loss[1:].tolist() == [0, 0]
    loss.sum().backward()
    assert z.grad[1:].abs().sum() == 0
    assert z.grad[0].abs().sum() > 0


def test_blended_targets_take_the_place_of_labels() -> None:
    z = torch.randn(2, 3)
    q = torch.tensor([[0.7, 0.3, 0.0], [0.0, 0.5, 0.5]])
    torch.testing.assert_close(CE()(z, batch=batch([0, 1], q)), -(q * F.log_softmax(z, 1)).sum(1))


def test_half_precision_logits_count_in_float32() -> None:
    z, q = torch.randn(2, 3).half(), torch.tensor([[0.7, 0.3, 0.0], [0.0, 0.5, 0.5]])
    for targets in (None, q):
        both = [CE()(x, batch=batch([0, 1], targets)) for x in (z, z.float())]
        torch.testing.assert_close(*both, rtol=0, atol=0)


def test_smoothing() -> None:
    z = torch.randn(2, 4)
    log_p = F.log_softmax(z, 1)
    expected = -(0.8 * log_p[torch.arange(2), torch.tensor([1, 2])] + 0.2 * log_p.mean(1))
    torch.testing.assert_close(CE(smoothing=0.2)(z, batch=batch([1, 2])), expected)


def test_wants_the_batch() -> None:
    with pytest.raises(TypeError, match="give it the batch"):
        CE()(torch.randn(2, 3))
