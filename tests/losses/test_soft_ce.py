import torch

from potstill.losses import CE, KD, SoftCE
from potstill.types import Batch


def test_parity_with_founding_document_001(golden) -> None:
    case = golden("soft_ce.T4.alpha0.7")
    z, y = case["student_logits"], case["labels"]
    case.check(0.7 * SoftCE(4.0)(z, case["teacher_logits"]) + 0.3 * CE()(z, batch=Batch(z, y, y, y)))


def test_its_gradient_is_that_of_kd_divided_by_the_square_of_the_temperature() -> None:
    s, t = torch.randn(6, 5, requires_grad=True), torch.randn(6, 5)
    (soft,) = torch.autograd.grad(SoftCE(4.0)(s, t).mean(), s)
    (kd,) = torch.autograd.grad(KD(4.0)(s, t).mean(), s)
    torch.testing.assert_close(kd, 16 * soft, rtol=1e-4, atol=1e-6)
