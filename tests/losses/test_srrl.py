import pytest
import torch
from torch import nn

from potstill.errors import ModelError
from potstill.losses import SRRL


def test_by_hand_in_float64():
    torch.manual_seed(0)
    head = nn.Linear(5, 4)
    loss = SRRL((3,), (5,), head, activation="relu", classification=0.5)
    s, t = torch.randn(6, 3, requires_grad=True), torch.randn(6, 5)
    x = s.double() @ loss.connector[0].weight.double().flatten(1).T
    x = (x - x.mean(0)) / (x.var(0, unbiased=False) + 1e-5).sqrt()
    x = x.clamp_min(0)
    W, b = head.weight.detach().double(), head.bias.detach().double()
    y = t.double()
    expected = ((x - y) ** 2).mean(1) + 0.5 * (((x @ W.T + b) - (y @ W.T + b)) ** 2).mean(1)
    rows = loss(s, t)
    torch.testing.assert_close(rows.double(), expected, rtol=1e-4, atol=1e-6)
    (got,), (wanted,) = torch.autograd.grad(rows.mean(), s), torch.autograd.grad(expected.mean(), s)
    torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-6)


def test_maps_are_connected_by_position_and_then_averaged():
    torch.manual_seed(0)
    loss = SRRL((3, 4, 4), (5, 2, 2), nn.Linear(5, 4), t_signed=False).eval()
    s, t = torch.randn(2, 3, 4, 4), torch.rand(2, 5, 2, 2)
    ours = loss.connector(s).mean((2, 3))
    theirs = t.mean((2, 3))
    expected = ((ours - theirs) ** 2).mean(1) + ((loss.head(ours) - loss.head(theirs)) ** 2).mean(1)
    torch.testing.assert_close(loss(s, t), expected)


def test_ends_in_a_relu_only_before_features_that_are_not_signed():
    def end(**settings):
        return isinstance(SRRL((3,), (5,), nn.Linear(5, 4), **settings).connector[-1], nn.ReLU)

    assert end(t_signed=False)
    assert not end(t_signed=True)
    assert end(t_signed=True, activation="relu")
    assert not end(t_signed=False, activation="none")


def test_the_teachers_classifier_is_copied_saved_and_never_trained():
    head = nn.Linear(5, 4)
    loss = SRRL((3,), (5,), head)
    assert not any(p.shape == (4, 5) for p in loss.parameters())
    torch.testing.assert_close(loss.state_dict()["head.weight"], head.weight.detach())
    with torch.no_grad():
        head.weight.zero_()
    assert loss.head.weight.abs().sum() > 0


def test_refuses_without_a_linear_classifier_at_this_spot():
    for head in (None, nn.Linear(7, 4)):
        with pytest.raises(ModelError, match=r"last layer(.|\n)*fitnet"):
            SRRL((3,), (5,), head)


def test_maps_of_bfloat16_are_averaged_in_float32():
    torch.manual_seed(0)
    loss = SRRL((3, 16, 16), (5, 16, 16), nn.Linear(5, 4), t_signed=True).eval()
    s, t = torch.randn(2, 3, 16, 16), 3 + torch.rand(2, 5, 16, 16).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        ours, theirs = loss.connector(s).float().mean((2, 3)), t.float().mean((2, 3))
        expected = ((ours - theirs) ** 2).mean(1) + ((loss.head(ours) - loss.head(theirs)) ** 2).mean(1)
        torch.testing.assert_close(loss(s, t), expected, rtol=1e-6, atol=0)
