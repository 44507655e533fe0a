import pytest
import torch
from torch import nn

from potstill.errors import ModelError
from potstill.losses import SimKD


def test_value_by_hand_with_the_larger_map_averaged():
    torch.manual_seed(0)
    loss = SimKD((3, 4, 4), (6, 2, 2), nn.Linear(6, 4))
    s, t = torch.randn(5, 3, 4, 4), torch.randn(5, 6, 2, 2)
    loss(s, t)
    loss.eval()
    projected = loss.projector(nn.functional.avg_pool2d(s, 2)).double()
    torch.testing.assert_close(loss(s, t).double(), ((projected - t) ** 2).mean((1, 2, 3)))
    loss = SimKD((3, 2, 2), (6, 4, 4), nn.Linear(6, 4)).eval()
    projected = loss.projector(s[:, :, :2, :2])
    target = nn.functional.avg_pool2d(t.repeat(1, 1, 2, 2), 2)
    torch.testing.assert_close(loss(s[:, :, :2, :2], t.repeat(1, 1, 2, 2)), ((projected - target) ** 2).mean((1, 2, 3)))


def test_the_projector_has_the_published_form():
    loss = SimKD((3, 4, 4), (6, 2, 2), nn.Linear(6, 4), t_signed=False)
    kernels = [tuple(m.weight.shape) for m in loss.projector if isinstance(m, nn.Conv2d)]
    assert kernels == [(3, 3, 1, 1), (3, 3, 3, 3), (6, 3, 1, 1)]
    assert [type(m).__name__ for m in loss.projector] == ["Conv2d", "BatchNorm", "ReLU"] * 3
    signed = SimKD((3, 4, 4), (6, 2, 2), nn.Linear(6, 4), t_signed=True)
    assert not isinstance(signed.projector[-1], nn.ReLU)


def test_the_deployed_head_is_projector_average_and_the_teachers_classifier():
    torch.manual_seed(0)
    classifier = nn.Linear(6, 4)
    loss = SimKD((3, 4, 4), (6, 2, 2), classifier).eval()
    s = torch.randn(5, 3, 4, 4)
    head = loss.deployed_head()
    expected = classifier(loss.projector(nn.functional.avg_pool2d(s, 2)).mean((2, 3)))
    torch.testing.assert_close(head(s), expected)
    assert any(p is loss.projector[0].weight for p in head.parameters())
    assert "classifier.weight" in head.state_dict()


def test_refuses_without_a_linear_classifier_at_this_spot():
    for head in (None, nn.Linear(7, 4)):
        with pytest.raises(ModelError, match=r"last layer(.|\n)*fitnet"):
            SimKD((3, 4, 4), (6, 2, 2), head)


def test_the_projectors_width_and_its_end():
    def loss(**settings):
        return SimKD((3, 4, 4), (6, 2, 2), nn.Linear(6, 4), **settings)

    assert [loss(reduction=r).projector[0].out_channels for r in (1, 3, 8)] == [6, 2, 1]
    ends = {
        (activation, signed): isinstance(loss(t_signed=signed, activation=activation).projector[-1], nn.ReLU)
        for activation in ("auto", "relu", "none")
        for signed in (True, False)
    }
    assert [k for k, relu in ends.items() if relu] == [("auto", False), ("relu", True), ("relu", False)]
