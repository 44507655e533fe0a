import torch

from potstill.losses import FitNet
from potstill.losses.fitnet import hint


def test_parity_of_the_hint(golden) -> None:
    case = golden("hint")
    case.check(hint(case["student"], case["teacher"]))


def test_learns_a_signed_teacher_map_unless_a_relu_ends_the_regressor() -> None:
    torch.manual_seed(0)
    s = torch.randn(16, 4, 4, 4)
    t = torch.stack([s[:, 0] - s[:, 1], -s[:, 2]], 1)
    ends = {}
    for activation in ("none", "relu"):
        loss = FitNet((4, 4, 4), (2, 4, 4), activation)  # type: ignore[arg-type]
        optimizer = torch.optim.Adam(loss.parameters(), 0.05)
        for _ in range(150):
            optimizer.zero_grad()
            value = loss(s, t).mean()
            value.backward()
            optimizer.step()
        ends[activation] = value.item()
    assert ends["none"] < 0.02 < 0.3 < ends["relu"]


def test_vectors_and_tokens() -> None:
    assert FitNet((4,), (6,))(torch.randn(3, 4), torch.randn(3, 6)).shape == (3,)
    assert FitNet((5, 4), (7, 6))(torch.randn(3, 5, 4), torch.randn(3, 7, 6)).shape == (3,)


def test_halves_are_compared_in_float32() -> None:
    s, t = torch.randn(3, 4).half(), torch.randn(3, 4).half()
    torch.testing.assert_close(hint(s, t), hint(s.float(), t.float()), rtol=0, atol=0)
