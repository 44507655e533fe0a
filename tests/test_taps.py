import pytest
import torch
from torch import nn

from potstill.errors import ModelError
from potstill.taps import Frozen, Spot, Tapped, find, first_tensor


class Net(nn.Module):
    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=inplace))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.spare = nn.Linear(1, 1)
        self.fc = nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.pool(self.features(x)).flatten(1))


X = torch.rand(2, 3, 6, 6)


def test_reports_outputs_and_inputs_and_leaves_no_hooks() -> None:
    net = Net().eval()
    said = Tapped(net, ["features.-1", "fc@in", "features.2@in"])(X)
    assert torch.equal(said["logits"], net(X))
    assert torch.equal(said["features.-1"], net.features(X))
    assert torch.equal(said["fc@in"], net.pool(net.features(X)).flatten(1))
    assert torch.equal(said["features.2@in"], net.features[1](net.features[0](X)))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def test_hooks_are_removed_when_the_net_fails() -> None:
    net = Net()
    with pytest.raises(RuntimeError):
        Tapped(net, ["fc"])(torch.rand(2, 7, 6, 6))
    assert not any(m._forward_hooks for m in net.modules())


def test_refuses_what_is_overwritten_in_place() -> None:
    with pytest.raises(ModelError, match="overwritten"):
        Tapped(Net(inplace=True), ["features.1"])(X)
    Tapped(Net(inplace=False), ["features.1"])(X)


def test_hears_what_a_layer_overwrites_itself_and_copies_nothing_else() -> None:
    plain, net = Net(), Net(inplace=True)
    net.load_state_dict(plain.state_dict())
    spots = ["features.2@in", "features.2", "fc@in"]
    said, same = Tapped(net, spots)(X), Tapped(plain, ["features.1", *spots])(X)
    for spot in ("logits", *spots):
        torch.testing.assert_close(said[spot], same[spot], rtol=0, atol=0)
    assert (said["features.2@in"] < 0).any()
    assert same["features.2@in"] is same["features.1"], "no copy where nothing works in place"
    grads = []
    for n, out in ((net, said), (plain, same)):
        (out["features.2@in"].square().sum() + out["logits"].sum()).backward()
        grads.append(n.features[0].weight.grad)
    torch.testing.assert_close(*grads)


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.a(self.a(x))


def test_a_layer_that_runs_twice_or_not_at_all() -> None:
    net, x = Twice(), torch.rand(2, 4)
    with pytest.raises(ModelError, match=r"more than once[^#]*a@in#1"):
        Tapped(net, ["a@in"])(x)
    for spot, why in (("b", "did not run"), ("b#1", "did not run"), ("a#3", "ran 2 times")):
        with pytest.raises(ModelError, match=why):
            Tapped(net, [spot])(x)
    once = net.a(x)
    said = Tapped(net, ["a#1", "a#2", "a@in#1", "a@in#2"])(x)
    for spot, value in {"a#1": once, "a#2": net.a(once), "a@in#1": x, "a@in#2": once}.items():
        assert torch.equal(said[spot], value), spot


@pytest.mark.parametrize("spot", ["a", "a.b@in", "a.-1#2", "a@in#13"])
def test_a_spot_reads_and_writes_itself(spot: str) -> None:
    assert str(Spot.parse(spot)) == spot
    assert Spot.parse("a.b@in#2") == ("a.b", True, 2)
    assert Spot.parse("a#0").path == "a#0", "calls count from 1"


@pytest.mark.parametrize(
    ("path", "near"),
    [("feature.0", "features.0"), ("features.9", "features.0"), ("fcc", "fc"), ("features.-4", "features")],
)
def test_names_the_nearest_layer(path: str, near: str) -> None:
    with pytest.raises(ModelError, match="no layer") as error:
        Tapped(Net(), [path])
    assert near in str(error.value)


def test_finds_from_the_end() -> None:
    net = Net()
    assert find(net, "features.-3") is net.features[0]


def test_takes_logits_out_of_what_models_return() -> None:
    class Output(dict):
        logits = X

    for value in (X, (X, 1), [X], {"a": 1, "logits": X}, Output()):
        assert first_tensor(value, "net") is X
    for wrong in (None, 3, (), {"a": "b"}):
        with pytest.raises(ModelError, match="must put out a tensor"):
            first_tensor(wrong, "net")


def test_applies_the_nets_own_normalisation_and_class_order() -> None:
    net = Net().eval()
    order = torch.tensor([4, 3, 2, 1, 0])
    said = Tapped(net, (), nn.BatchNorm2d(3, affine=False).eval().requires_grad_(False), order)(X)
    torch.testing.assert_close(said["logits"], net(X / (1 + 1e-5) ** 0.5)[:, order])
    assert Tapped(net, (), None, order).state_dict().keys() == {f"net.{k}" for k in net.state_dict()}


def test_frozen_is_outside_the_module_tree_and_in_eval_mode() -> None:
    teacher = Net().train()
    frozen = Frozen(Tapped(teacher, ["fc@in"]))
    holder = nn.ModuleDict({"t": frozen}).train()
    assert list(holder.parameters()) == []
    assert holder.state_dict() == {}
    teacher.train()  # its owner, for whatever reason
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    said = frozen(X)
    assert not teacher.training
    assert not said["fc@in"].requires_grad
    assert not said["logits"].is_inference()
    assert all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items())
    assert holder.double()["t"].net.net.fc.weight.dtype == torch.float64


def test_frozen_outputs_can_be_saved_for_backward() -> None:
    frozen, student = Frozen(Net()), Net()
    (student(X) * frozen(X)).sum().backward()
    assert student.fc.weight.grad is not None
    assert all(p.grad is None for p in frozen.net.parameters())
