import pytest
import torch
import torch.nn.functional as F

from potstill.errors import ModelError
from potstill.losses import FT
from potstill.losses._paraphraser import Paraphrase, Paraphraser
from potstill.losses.ft import factor_distance


def test_equals_repdistiller(golden):
    g = golden("ft.factor")
    g.check(factor_distance(g["student"], g["teacher"], "attention"))


def test_the_authors_form_by_hand():
    torch.manual_seed(0)
    s, t = torch.randn(3, 4, 2, 2), torch.randn(3, 4, 4, 4)
    small = F.avg_pool2d(t, 2)
    expected = []
    for b in range(3):
        x, y = s[b].double().flatten(), small[b].double().flatten()
        expected.append((x / x.norm() - y / y.norm()).abs().mean())
    torch.testing.assert_close(factor_distance(s, t, "factor").double(), torch.stack(expected), rtol=1e-5, atol=1e-7)


def test_the_paraphraser_learns_to_rebuild_and_then_only_teaches():
    torch.manual_seed(0)
    pre = Paraphrase((6, 4, 4))
    t = torch.randn(8, 6, 4, 4)
    rows = pre(None, t)
    torch.testing.assert_close(rows, ((pre.paraphraser(t) - t) ** 2).mean((1, 2, 3)))
    optimizer = torch.optim.Adam(pre.parameters(), 0.01)
    for _ in range(20):
        optimizer.zero_grad()
        pre(None, t).mean().backward()
        optimizer.step()
    assert pre(None, t).mean() < 0.97 * rows.mean()

    loss = FT((4, 2, 2), (6, 4, 4), pre.paraphraser, form="factor")
    assert loss.paraphraser is pre.paraphraser
    s = torch.randn(8, 4, 2, 2)
    expected = factor_distance(loss.translator(s), pre.paraphraser.encoder(t), "factor")
    torch.testing.assert_close(loss(s, t), expected)
    assert not any(p.requires_grad for p in loss.paraphraser.parameters())
    assert "paraphraser.encoder.0.weight" in loss.state_dict()


@pytest.mark.parametrize("batch_norm", [True, False])
def test_sizes_are_the_published_ones(batch_norm):
    """3x3 layers C -> C -> kC -> kC; RepDistiller's translator has BatchNorm, the authors' has not."""
    loss = FT((16, 8, 8), (64, 8, 8), batch_norm=batch_norm)
    assert [tuple(m.weight.shape) for m in loss.paraphraser.encoder if hasattr(m, "weight")] == [
        (64, 64, 3, 3),
        (32, 64, 3, 3),
        (32, 32, 3, 3),
    ]
    convs = [m for m in loss.translator if isinstance(m, torch.nn.Conv2d)]
    assert [tuple(m.weight.shape[:2]) for m in convs] == [(16, 16), (32, 16), (32, 32)]
    assert len(loss.translator) == (9 if batch_norm else 6)
    with torch.device("meta"):
        assert sum(p.numel() for p in Paraphraser(2048, 1024).parameters()) == 132_129_792  # ResNet-50


def test_factors_of_bfloat16_are_compared_in_float32():
    torch.manual_seed(0)
    s, t = torch.randn(2, 4, 3, 3).bfloat16(), torch.randn(2, 4, 7, 7).bfloat16()
    for form in ("attention", "factor"):
        for a, b in ((s, t), (t, s)):
            torch.testing.assert_close(factor_distance(a, b, form), factor_distance(a.float(), b.float(), form))


def test_no_gradient_reaches_the_teachers_factors():
    loss, s = FT((3, 4, 4), (6, 4, 4)), torch.randn(2, 3, 4, 4)
    t = torch.randn(2, 6, 4, 4, requires_grad=True)
    loss(s, t).sum().backward()
    assert t.grad is None
    assert all(p.grad is None for p in loss.paraphraser.parameters())


@pytest.mark.parametrize("shapes", [((3, 1, 1), (6, 4, 4)), ((5,), (7,))])
def test_an_attention_map_of_one_position_is_refused(shapes) -> None:
    with pytest.raises(ModelError, match="one position"):
        FT(*shapes)
    assert FT(*shapes, form="factor")
