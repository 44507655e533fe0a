import pytest
import torch

from potstill.errors import ModelError
from potstill.losses import NST
from potstill.losses.nst import mmd


def test_equals_repdistiller(golden):
    g = golden("nst")
    g.check(NST()(g["student_*"], g["teacher_*"]))


@pytest.mark.parametrize("shape", [(3, 5, 4, 4), (7, 9, 2, 2)], ids=["channel Grams", "spatial Grams"])
def test_both_forms_equal_the_kernel_by_hand(shape):
    torch.manual_seed(0)
    c, C, H, W = shape
    s, t = torch.randn(2, c, H, W, requires_grad=True), torch.randn(2, C, H, W)

    def kernel(x, y):
        return torch.stack([torch.stack([(p @ q) ** 2 for q in y]) for p in x]).mean()

    expected = []
    for b in range(2):
        x, y = (f[b].double().flatten(1) / f[b].double().flatten(1).norm(dim=1, keepdim=True) for f in (s, t))
        expected.append(kernel(y, y) - 2 * kernel(x, y) + kernel(x, x))
    (by_hand,) = torch.autograd.grad(torch.stack(expected).sum(), s, retain_graph=True)
    rows = mmd(s, t)
    torch.testing.assert_close(rows.double(), torch.stack(expected), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(torch.autograd.grad(rows.sum(), s)[0], by_hand, rtol=1e-4, atol=1e-6)


def test_holds_no_product_of_channels_and_positions():
    """The reference's B x C x C x HW tensor would have 537 million entries here."""
    s, t = torch.randn(2, 512, 32, 32), torch.randn(2, 512, 32, 32)
    largest = 0

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            out = function(*args, **(kwargs or {}))
            largest = max(largest, out.numel() if isinstance(out, torch.Tensor) else 0)
            return out

    with Watch():
        NST()(s, t)
    assert largest <= 2 * 512 * 1024


def test_the_larger_map_is_averaged_first():
    s, t = torch.randn(2, 3, 4, 4), torch.randn(2, 5, 2, 2)
    small = torch.nn.functional.avg_pool2d(s, 2)
    torch.testing.assert_close(NST()(s, t), NST()(small, t))
    torch.testing.assert_close(NST()(t, s), NST()(t, small))


def test_refuses_to_drop_stages():
    maps = [torch.randn(2, 3, 4, 4), torch.randn(2, 3, 2, 2)]
    with pytest.raises(ModelError, match="as many"):
        NST()(maps, maps[:1])
