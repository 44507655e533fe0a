import json

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from potstill.errors import ModelError
from potstill.models import Preprocess


@pytest.mark.parametrize("idle", [Preprocess(), Preprocess(size=8, channels=3), Preprocess([0.0] * 3, [1.0] * 3)])
def test_nothing_to_do_costs_nothing(idle: Preprocess) -> None:
    x = torch.rand(2, 3, 8, 8)
    assert idle(x) is x


def test_normalises() -> None:
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    x = torch.rand(2, 3, 4, 4)
    kept = x.clone()
    y = Preprocess(mean, std)(x)
    for c in range(3):
        torch.testing.assert_close(y[:, c], (x[:, c] - mean[c]) / std[c])
    assert torch.equal(x, kept)


def test_grey_and_colour() -> None:
    grey = torch.rand(2, 1, 4, 4)
    assert torch.equal(Preprocess(channels=3)(grey), grey.repeat(1, 3, 1, 1))
    picture = Image.frombytes("RGB", (1, 1), bytes([200, 100, 50]))
    x = torch.tensor([200, 100, 50.0]).view(1, 3, 1, 1) / 255
    assert Preprocess(channels=1)(x).item() == pytest.approx(picture.convert("L").getpixel((0, 0)) / 255, abs=1 / 255)
    with pytest.raises(ModelError, match=r"wants 3 channels.*have 4"):
        Preprocess(channels=3)(torch.rand(1, 4, 4, 4))


def test_channels_come_before_normalisation() -> None:
    y = Preprocess((0.1, 0.2, 0.3), (1.0, 1.0, 1.0), channels=3)(torch.full((1, 1, 2, 2), 0.5))
    torch.testing.assert_close(y[0, :, 0, 0], torch.tensor([0.4, 0.3, 0.2]))


def test_resizes_with_antialiasing_and_only_if_it_must() -> None:
    checkers = (torch.arange(16).view(-1, 1) + torch.arange(16)) % 2
    x = checkers.float().view(1, 1, 16, 16)
    y = Preprocess(size=4)(x)
    assert y.shape == (1, 1, 4, 4)
    assert (y - 0.5).abs().max() < 0.1  # without antialiasing, single pixels come through
    torch.testing.assert_close(y, F.interpolate(x, (4, 4), mode="bilinear", antialias=True))
    assert Preprocess(size=(4, 8))(x).shape == (1, 1, 4, 8)


def test_has_no_state() -> None:
    p = Preprocess([0.5], [0.2], size=4, channels=1)
    assert not p.state_dict()
    assert not list(p.parameters())
    assert nn.Sequential(p, nn.Linear(1, 1)).to(torch.float64)[0].offset.dtype == torch.float64


def test_json_there_and_back_is_exact() -> None:
    p = Preprocess((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761), (32, 40), 3)
    text = json.dumps(p.to_json())
    assert json.loads(text) == {
        "mean": [0.5071, 0.4867, 0.4408],
        "std": [0.2675, 0.2565, 0.2761],
        "size": [32, 40],
        "channels": 3,
    }
    again = Preprocess.from_json(json.loads(text))
    x = torch.rand(2, 1, 8, 8)
    assert again.to_json() == p.to_json()
    assert torch.equal(again(x), p(x))


@pytest.mark.parametrize(
    "value",
    [
        {"means": [0.5]},
        {"mean": [0.5]},
        {"mean": ["a"], "std": [1.0]},
        {"mean": [0.5, 0.5], "std": [1.0]},
        {"mean": [0.5], "std": [0.0]},
        {"mean": [float("nan")], "std": [1.0]},
        {"size": [32]},
        {"size": "32"},
        {"size": [0, 4]},
        {"channels": 3, "mean": [0.1, 0.2], "std": [1.0, 1.0]},
        {"channels": "3"},
        None,
    ],
)
def test_strange_values_are_refused(value: dict[str, object]) -> None:
    with pytest.raises(ModelError):
        Preprocess.from_json(value)


def test_from_data_of_other_channels() -> None:
    torch.manual_seed(0)
    base = torch.rand(64, 1, 8, 8)
    x = (base + 0.1 * torch.rand(64, 3, 8, 8)) / 1.1
    mean, std = x.mean((0, 2, 3)).tolist(), x.std((0, 2, 3)).tolist()
    y = Preprocess.from_data(mean, std, channels=1)(x)
    assert y.shape == (64, 1, 8, 8)
    assert y.mean().item() == pytest.approx(0, abs=1e-4)
    assert 0.95 < y.std().item() <= 1
    grey = Preprocess.from_data([0.5], [0.25], channels=3)(torch.full((1, 1, 2, 2), 1.0))
    assert torch.equal(grey, torch.full((1, 3, 2, 2), 2.0))


def test_with_data_keeps_what_the_net_came_with() -> None:
    own = Preprocess([0.5], [0.5])
    assert own.with_data([0.1], [0.1]) is own
    filled = Preprocess(size=16, channels=3).with_data([0.1], [0.2])
    assert filled.to_json() == {"mean": [0.1], "std": [0.2], "size": [16, 16], "channels": 3}
