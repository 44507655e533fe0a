import pytest
import torch

from potstill.errors import ModelError
from potstill.losses import AT
from potstill.losses._squares import ChannelSquares


@pytest.mark.parametrize("name", ["at.p2", "at.p2.mixed_resolution"])
def test_parity(golden, name: str) -> None:
    case = golden(name)
    case.check(AT()(case["student_*"], case["teacher_*"]))


@pytest.mark.parametrize("p", [1.0, 3.0, 4.0])
def test_by_hand_with_another_power(p: float) -> None:
    s, t = torch.randn(2, 3, 2, 2), torch.randn(2, 5, 2, 2)

    def attention(f: torch.Tensor) -> torch.Tensor:
        a = (f.abs() ** p).mean(0).flatten()
        return a / a.norm()

    expected = [((attention(s[b]) - attention(t[b])) ** 2).mean().item() for b in range(2)]
    assert AT(p=p)(s, t).tolist() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("of_s", "of_t"), [((4, 6), (2, 6)), ((2, 3), (2, 6)), ((4, 2), (2, 6))])
def test_the_larger_feature_is_averaged_on_each_axis(of_s: tuple[int, int], of_t: tuple[int, int]) -> None:
    s, t = torch.randn(2, 3, *of_s), torch.randn(2, 5, *of_t)
    H, W = min(of_s[0], of_t[0]), min(of_s[1], of_t[1])

    def averaged(f: torch.Tensor) -> torch.Tensor:
        return f.unflatten(3, (W, -1)).mean(4).unflatten(2, (H, -1)).mean(3)

    torch.testing.assert_close(AT()(s, t), AT()(averaged(s), averaged(t)))


def test_refuses_to_drop_stages_in_silence() -> None:
    maps = [torch.randn(2, 3, 4, 4), torch.randn(2, 3, 2, 2)]
    with pytest.raises(ModelError, match="as many features"):
        AT()(maps, maps[:1])
    with pytest.raises(ModelError, match=r"tokens .*got shape \(2, 3\)"):
        AT()(torch.randn(2, 3), torch.randn(2, 3))


def test_tokens_are_a_map_without_the_class_token() -> None:
    torch.manual_seed(0)
    s, t = torch.randn(2, 5, 2, 2), torch.randn(2, 3, 2, 2)
    tokens = torch.cat([torch.randn(2, 1, 5), s.flatten(2).mT], 1)
    torch.testing.assert_close(AT()(tokens, t), AT()(s, t))


def test_a_zero_map_in_half_precision_is_finite() -> None:
    s = torch.zeros(2, 3, 4, 4, dtype=torch.float16, requires_grad=True)
    AT()(s, torch.randn(2, 3, 4, 4).half()).sum().backward()
    assert torch.isfinite(s.grad).all()


def test_the_sum_of_squares_has_its_slope():
    f = torch.randn(2, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    for g in (f, f.contiguous(memory_format=torch.channels_last)):
        torch.testing.assert_close(ChannelSquares.apply(g), f.square().sum(1))
    assert torch.autograd.gradcheck(ChannelSquares.apply, f)
    assert torch.autograd.gradgradcheck(ChannelSquares.apply, f)


def test_what_is_read_can_be_kept_only_where_both_sides_are_known():
    assert AT(s_shape=(2, 4, 4), t_shape=(3, 4, 4)).packs == "values"
    assert AT().packs is AT(s_shape=(2, 4, 4)).packs is AT(t_shape=(2, 4, 4)).packs is None
