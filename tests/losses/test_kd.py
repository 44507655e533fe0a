import pytest
import torch

from potstill.errors import ModelError
from potstill.losses import CE, KD
from potstill.losses.kd import standardized
from potstill.types import Batch


@pytest.mark.parametrize("name", ["kd.T1", "kd.T4"])
def test_parity(golden, name: str) -> None:
    case = golden(name)
    case.check(KD(case.kwargs["temperature"])(case["student_logits"], case["teacher_logits"]))


def test_parity_with_logit_standardization(golden) -> None:
    case = golden("kd.logit_standardization.T2")
    case.check(KD(2.0, standardize=True)(case["student_logits"], case["teacher_logits"]))


def test_parity_with_founding_document_002(golden) -> None:
    case = golden("kd_ce.T5.alpha0.5")
    z, y = case["student_logits"], case["labels"]
    case.check(0.5 * KD(5.0)(z, case["teacher_logits"]) + 0.5 * CE()(z, batch=Batch(z, y, y, y)))


def test_by_hand_in_float64() -> None:
    s, t = torch.randn(3, 4, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)
    p, q = torch.softmax(s / 3, 1), torch.softmax(t / 3, 1)
    expected = torch.stack([9 * sum(q[b, c] * torch.log(q[b, c] / p[b, c]) for c in range(4)) for b in range(3)])
    torch.testing.assert_close(KD(3.0)(s, t).double(), expected, rtol=1e-5, atol=1e-6)


def test_the_limit_of_a_high_temperature_is_logit_matching() -> None:
    s, t = torch.randn(5, 7), torch.randn(5, 7)
    s, t = (s - s.mean(1, keepdim=True)).requires_grad_(), t - t.mean(1, keepdim=True)
    KD(1e3)(s, t).sum().backward()
    torch.testing.assert_close(s.grad, (s.detach() - t) / 7, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("shape", [(1, 10), (8, 1), (8, 11), (4, 10)])
def test_refuses_shapes_that_torch_would_broadcast(shape: tuple[int, int]) -> None:
    with pytest.raises(ModelError, match="one shape"):
        KD()(torch.randn(8, 10), torch.randn(shape))


def test_refuses_what_has_more_axes_than_logits() -> None:
    with pytest.raises(ModelError, match="one shape"):
        KD()(torch.randn(8, 10, 2), torch.randn(8, 10, 2))


def test_standardizing_by_hand() -> None:
    torch.testing.assert_close(standardized(torch.tensor([[1.0, 3.0]])), torch.tensor([[-1.0, 1.0]]) / 2**0.5)
    little = 1e-7 * torch.tensor([[-1.0, 0.0, 1.0]])  # of variance 2/3 1e-14 (biased), to which 1e-14 is added
    torch.testing.assert_close(standardized(little), little * (2 / 3 / (5 / 3 * 1e-14)) ** 0.5, rtol=1e-4, atol=0)
    assert standardized(torch.ones(2, 1)).tolist() == [[0], [0]]


def test_standardizing_a_constant_row_has_a_finite_gradient() -> None:
    z = torch.zeros(2, 5, requires_grad=True)
    standardized(z).square().sum().backward()
    assert torch.isfinite(z.grad).all()
