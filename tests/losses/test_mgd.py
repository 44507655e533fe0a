import pytest
import torch
from torch import nn

from potstill.losses import MGD


def test_by_hand_without_a_mask():
    torch.manual_seed(0)
    loss = MGD((3, 4, 4), (6, 2, 2)).eval()
    s, t = torch.randn(4, 3, 4, 4), torch.randn(4, 6, 2, 2)
    again = loss.generate(loss.align(nn.functional.avg_pool2d(s, 2))).double()
    torch.testing.assert_close(loss(s, t).double(), ((again - t) ** 2).sum((1, 2, 3)), rtol=1e-5, atol=1e-6)


def test_what_is_masked_is_not_seen(monkeypatch):
    torch.manual_seed(0)
    loss = MGD((6, 2, 2), (6, 2, 2))
    s, t = torch.randn(4, 6, 2, 2), torch.randn(4, 6, 2, 2)
    mask = (torch.arange(6) % 2).float().view(1, 6, 1, 1).expand(4, -1, -1, -1)
    monkeypatch.setattr(loss, "kept", lambda f: mask)
    torch.testing.assert_close(loss(s, t), ((loss.generate(s * mask) - t) ** 2).sum((1, 2, 3)))
    hidden = s.clone()
    hidden[:, ::2] = 99
    torch.testing.assert_close(loss(hidden, t), loss(s, t))


@pytest.mark.parametrize(("mask", "shape"), [("channel", (64, 500, 1, 1)), ("pixel", (64, 1, 20, 20))])
def test_masks_hide_their_share_anew_for_each_sample_and_step(mask, shape):
    torch.manual_seed(0)
    loss = MGD((3, 4, 4), (6, 4, 4), masked=0.15, mask=mask)
    kept = loss.kept(torch.zeros(64, 500, 20, 20))
    assert kept.shape == shape
    assert set(kept.unique().tolist()) == {0.0, 1.0}
    assert kept.mean().item() == pytest.approx(0.85, abs=0.01)
    assert not torch.equal(kept[0], kept[1])
    assert not torch.equal(kept, loss.kept(torch.zeros(64, 500, 20, 20)))


def test_aligns_only_where_channels_differ():
    assert isinstance(MGD((6, 4, 4), (6, 4, 4)).align, nn.Identity)
    assert MGD((3, 4, 4), (6, 4, 4)).align.weight.shape == (6, 3, 1, 1)
