from pathlib import Path

import pytest
import torch

from potstill.errors import ConfigError, ModelError
from potstill.methods import PRESETS, expand
from potstill.methods.build import build, loss_class, make_weight
from potstill.schemes import Ramp
from potstill.types import Batch
from tests.methods.test_probe import Vgg, Vit

X = torch.rand(4, 3, 16, 16)


def batch() -> Batch:
    i = torch.arange(4)
    return Batch(X, i % 5, i, i)


def test_a_method_becomes_links_with_published_weights() -> None:
    built = build(Vgg(), Vgg((8, 12, 16)), expand("fitnet+at+kd"), X)
    assert [(r["name"], r["weight"]) for r in built.rows] == [
        ("ce", 1.0),
        ("fitnet", 100.0),
        ("at", 1000.0),
        ("kd", 1.0),
    ]
    assert built.rows[1]["at"] == [["features.6", "features.6"]]
    assert built.rows[1]["shapes"] == [[[6, 8, 8], [12, 8, 8]]]
    assert built.rows[1]["parameters"] == 6 * 12 + 12 + 24
    assert len(built.rows[2]["at"]) == 4
    losses = built.scheme(batch())
    assert all(v.shape == (4,) and torch.isfinite(v).all() for v in losses.values())


def test_one_method_alone_has_its_own_cross_entropy_weight() -> None:
    assert expand("kd") == {"ce": {"weight": 0.1}, "kd": {"weight": 0.9, "at": "logits"}}
    assert expand("at")["ce"]["weight"] == 1.0
    assert expand("none") == {"ce": {"weight": 1.0}}
    with pytest.raises(ConfigError, match="Did you mean 'fitnet'"):
        expand("fitnets+kd")
    with pytest.raises(ConfigError, match="different methods"):
        expand("kd+kd")


def test_settings_and_spots_are_taken_over() -> None:
    losses = {
        "ce": {"weight": 0.5},
        "low": {"use": "fitnet", "weight": {"from": 4, "to": 1}, "at": ["features.2", "features.6"]},
    }
    built = build(Vgg(), Vgg((8, 12, 16)), losses, X)
    link = built.scheme.links[1]
    assert (link.name, link.at_s, link.at_t, link.weight) == ("low", ["features.2"], ["features.6"], Ramp(4, 1))


def test_a_transformer_teaches_a_transformer() -> None:
    built = build(Vit(3, 8), Vit(6, 12), {"fitnet": {}, "kd": {}}, X)
    assert all(torch.isfinite(v).all() for v in built.scheme(batch()).values())


def test_a_transformer_cannot_hint_a_convolutional_net_in_silence() -> None:
    with pytest.raises(ModelError, match="no adapter"):
        build(Vgg(), Vit(), {"fitnet": {}}, X)


def test_a_heavy_adapter_is_noticed() -> None:
    built = build(Vgg((4, 4, 4)), Vgg((4, 512, 16)), {"fitnet": {}}, X)
    assert any("more than the student" in n for n in built.notices)


def test_unequal_numbers_of_stages_are_said() -> None:
    built = build(Vgg((4, 8)), Vgg((8, 12, 16)), {"at": {}}, X)
    assert any("3 stages, the teacher 4" in n for n in built.notices)


def test_a_loss_of_the_users_own(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from potstill import Loss\n"
        "class Mine(Loss):\n"
        "    def __init__(self, num_classes, margin: float = 0.5):\n"
        "        super().__init__()\n"
        "        self.n, self.margin = num_classes, margin\n"
        "    def forward(self, s, t, batch=None):\n"
        "        return (s - t).abs().sum(1) / self.n + self.margin\n"
    )
    losses = {"mine": {"use": f"{file}:Mine", "weight": 2.0, "margin": 1.0, "at": "logits"}}
    built = build(Vgg(), Vgg((8, 12, 16)), losses, X, facts={"num_classes": 5})
    assert (built.scheme(batch())["mine"] >= 2).all()
    with pytest.raises(ConfigError, match="Did you mean 'margin'"):
        build(Vgg(), Vgg(), {"mine": {"use": f"{file}:Mine", "magin": 1.0}}, X, facts={"num_classes": 5})
    with pytest.raises(ConfigError, match="needs num_classes"):
        build(Vgg(), Vgg(), {"mine": {"use": f"{file}:Mine"}}, X)
    with pytest.raises(ConfigError, match="must name a class"):
        loss_class(f"{file}:Min")


def test_a_teacher_is_needed() -> None:
    with pytest.raises(ConfigError, match="needs a teacher"):
        build(Vgg(), None, {"kd": {}}, X)
    assert list(build(Vgg(), None, {"ce": {}}, X).scheme(batch())) == ["ce"]


def test_weights() -> None:
    assert make_weight(None, 3.0) == 3.0
    assert make_weight({"from": 4, "to": 1, "end": 0.5, "shape": "cosine"}, 0.0) == Ramp(4, 1, 0.0, 0.5, "cosine")


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_names_a_loss_that_is_there(name: str) -> None:
    cls, _ = loss_class(name)
    assert cls.__doc__
    assert PRESETS[name].weight > 0
