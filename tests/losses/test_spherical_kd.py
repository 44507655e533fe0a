import statistics

import torch

from potstill.losses import KD, SphericalKD


def test_the_student_takes_the_teachers_spread():
    torch.manual_seed(0)
    s, t = 3 * torch.randn(5, 4), torch.randn(5, 4)
    scaled = torch.tensor(
        [
            [z / statistics.stdev(a) * statistics.stdev(b) for z in a]
            for a, b in zip(s.tolist(), t.tolist(), strict=True)
        ]
    )
    torch.testing.assert_close(SphericalKD(3.0)(s, t), KD(3.0)(scaled, t), rtol=1e-4, atol=1e-5)


def test_with_a_scale_both_lie_on_one_sphere():
    torch.manual_seed(1)
    s, t = 3 * torch.randn(5, 4), torch.randn(5, 4) - 2

    def sphere(z):
        return torch.tensor([[2 * (x - statistics.mean(a)) / statistics.pstdev(a) for x in a] for a in z.tolist()])

    torch.testing.assert_close(SphericalKD(4.0, scale=2.0)(s, t), KD(4.0)(sphere(s), sphere(t)), rtol=1e-3, atol=1e-5)


def test_the_gradient_cannot_change_the_size_of_the_students_logits():
    torch.manual_seed(2)
    s, t = torch.randn(5, 4, requires_grad=True), torch.randn(5, 4)
    for loss in (SphericalKD(), SphericalKD(scale=2.0)):
        (slope,) = torch.autograd.grad(loss(s, t).sum(), s)
        assert slope.abs().max() > 0.1
        torch.testing.assert_close((slope * s).sum(1), torch.zeros(5), atol=1e-3, rtol=0)
