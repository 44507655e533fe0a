import pytest
import torch

from potstill.errors import ModelError
from potstill.losses import AT


@pytest.mark.parametrize("name", ["at.p2", "at.p2.mixed_resolution"])
def test_parity(golden, name: str) -> None:
    case = golden(name)
    case.check(AT()(case["student_*"], case["teacher_*"]))


def test_by_hand_with_another_power() -> None:
    s, t = torch.randn(2, 3, 2, 2), torch.randn(2, 5, 2, 2)

    def attention(f: torch.Tensor) -> torch.Tensor:
        a = (f.abs() ** 3).mean(0).flatten()
        return a / a.norm()

    expected = [((attention(s[b]) - attention(t[b])) ** 2).mean().item() for b in range(2)]
    assert AT(p=3.0)(s, t).tolist() == pytest.approx(expected, rel=1e-4)


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
