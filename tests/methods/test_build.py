from pathlib import Path

import pytest
import torch

from potstill.errors import ConfigError, ModelError
from potstill.losses.ofd import margin
from potstill.methods import PRESETS, expand
from potstill.methods.build import build, loss_class, make_weight
from potstill.models import resolve
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


ASKING = """
from potstill import Loss
class Asks(Loss):
    def __init__(self, t_head, s_head, t_signed, s_shape, t_margin=(), t_paraphraser=1, labels=None, scale: float = 2.0):
        super().__init__()
        self.heads = [t_head, s_head]
        self.t_signed, self.s_shape, self.t_margin, self.t_paraphraser = t_signed, s_shape, t_margin, t_paraphraser
        self.labels = labels
    def forward(self, s, t, batch=None):
        return s[0].flatten(1).sum(1)
class Unknown(Loss):
    def __init__(self, t_heads): ...
class Optional(Loss):
    def __init__(self, t_heads=None):
        super().__init__()
    def forward(self, s, t, batch=None):
        return s.flatten(1).sum(1)
"""


def test_facts_of_the_nets(tmp_path: Path) -> None:
    file = tmp_path / "asks.py"
    file.write_text(ASKING)
    student, teacher = Vgg(inplace=False), Vgg((8, 12, 16), inplace=False)
    with torch.no_grad():
        teacher.features[1].bias.add_(0.5)
    asks = {"asks": {"use": f"{file}:Asks", "at": "stages@pre"}}
    order = torch.tensor([3, 1, 4, 0, 2])
    built = build(student, teacher, asks, X, order={"teacher": order})
    loss = built.scheme.links[0].loss
    theirs, ours = loss.heads
    assert ours is student.classifier, "the live one"
    assert torch.equal(theirs.weight, teacher.classifier.weight[order])
    assert torch.equal(theirs.bias, teacher.classifier.bias[order])
    assert not theirs.weight.requires_grad
    assert teacher.classifier.weight.requires_grad, "the teacher itself is left as it was"
    said = build(student, teacher, asks, X).scheme.nets["teacher"](X)["features.2@in"]
    bn = teacher.features[1]
    torch.testing.assert_close(loss.t_margin[0], margin(bn.weight, bn.bias))
    assert len(loss.t_margin) == 4
    assert (loss.t_signed, loss.s_shape[0]) == ([True] * 4, (4, 16, 16))
    assert said.min() < 0
    assert (loss.t_paraphraser, loss.labels) == (None, None)
    assert any("paraphraser" in n for n in built.notices)
    asks["asks"]["at"] = "last"
    after = build(student, teacher, asks, X).scheme.links[0].loss
    assert (after.t_signed, after.t_margin) == (False, [None])
    with pytest.raises(ConfigError, match=r"asks for t_heads, which nobody knows. Did you mean 't_head'\?"):
        build(student, teacher, {"x": {"use": f"{file}:Unknown"}}, X)
    build(student, teacher, {"x": {"use": f"{file}:Optional"}}, X)
    with pytest.raises(ConfigError, match=r"no such setting 't_signed'.*Known: scale"):
        build(student, teacher, {"x": {"use": f"{file}:Asks", "t_signed": True}}, X)
    with pytest.raises(ModelError, match="the student's classes stand in another order"):
        build(student, teacher, asks, X, order={"student": order})


def test_the_teachers_map_decides_on_the_final_relu() -> None:
    behind_relu, signed = Vgg((8, 12, 16)), resolve("zoo:wrn_16_1", num_classes=5).module
    ends = [
        build(Vgg(), t, {"simkd": {"at": ["features", at]}}, X).scheme.links[0].loss.projector[-1]
        for t, at in ((behind_relu, "features"), (Vit(2, 8), "blocks.1"))
    ]
    assert [type(e).__name__ for e in ends] == ["ReLU", "Identity"]
    assert type(build(Vgg(), signed, {"simkd": {}}, X).scheme.links[0].loss.projector[-1]).__name__ == "ReLU"


def test_what_the_user_should_know_of_spots() -> None:
    shuffled = resolve("zoo:ShuffleV2", num_classes=5).module
    built = build(shuffled, Vgg((8, 12, 16), inplace=False), {"ce": {}, "ofd": {}, "kd": {}}, X)
    assert any("ofd: no module of the student is the activation that ends layer1" in n for n in built.notices)
    assert not any("teacher is the activation" in n for n in built.notices)
    assert not any("reads the student's logits" in n for n in built.notices)
    alone = build(Vgg(), Vgg((8, 12, 16)), expand("simkd"), X)
    assert not alone.notices, "its own classifier learns nothing, and is not delivered"
    both = build(Vgg(), Vgg((8, 12, 16)), expand("simkd+kd"), X)
    assert any("ce, kd reads the student's own classifier, which is not delivered" in n for n in both.notices)
    bare = build(Vgg(), Vgg((8, 12, 16)), {"at": {}}, X)
    assert any("reads the student's logits" in n for n in bare.notices)


def test_a_teacher_is_needed() -> None:
    with pytest.raises(ConfigError, match="needs a teacher"):
        build(Vgg(), None, {"kd": {}}, X)
    assert list(build(Vgg(), None, {"ce": {}}, X).scheme(batch())) == ["ce"]


def test_a_published_schedule() -> None:
    assert expand("dkd+kd")["dkd"]["weight"] == {"from": 0.0, "to": 1.0, "end": 20 / 240}
    assert expand("crcd+kd")["kd"]["weight"] == {"from": 0.9, "to": 0.0, "end": 0.96, "shape": "step"}
    assert expand("crcd")["crcd"]["weight"] is not PRESETS["crcd"].weight, "a copy: the user may change it"
    link = build(Vgg(), Vgg(), {"x": {"use": "reviewkd", "at": [["features.6", "features.6"]]}}, X).scheme.links[0]
    assert [round(link.weight(p), 3) for p in (0.0, 10 / 240, 20 / 240, 1.0)] == [0, 2.5, 5, 5]


def test_weights() -> None:
    assert make_weight(3) == 3.0
    assert make_weight({"from": 4, "to": 1, "end": 0.5, "shape": "cosine"}) == Ramp(4, 1, 0.0, 0.5, "cosine")


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_names_a_loss_that_is_there(name: str) -> None:
    cls, _ = loss_class(name)
    assert cls.__doc__
    weight = make_weight(PRESETS[name].weight)
    assert (weight(0.5) if isinstance(weight, Ramp) else weight) > 0
