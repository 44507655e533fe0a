"""A record of surgery builds the net again; a broken or hostile one is refused."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from potstill.errors import ModelError
from potstill.models.net import Net
from potstill.models.resolve import load_student, resolve, save_student
from potstill.models.surgery import Surgery, factorised, resize, sizes, surgery_of

X = torch.rand(2, 3, 16, 16)


def cut_resnet() -> Net:
    """A resnet8 whose layer2.0 has 8 hidden channels instead of 32, without any library."""
    net = resolve("resnet8", num_classes=10, in_channels=3)
    net.in_channels, before = 3, sizes(net.module)
    resize(net.module.get_submodule("layer2.0.conv1"), {"out_channels": 8}, "layer2.0.conv1")
    resize(net.module.get_submodule("layer2.0.bn1"), {"num_features": 8}, "layer2.0.bn1")
    resize(net.module.get_submodule("layer2.0.conv2"), {"in_channels": 8}, "layer2.0.conv2")
    for tensor in net.module.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.1, 1)
    net.surgery = surgery_of(net.module, before, None)
    return net


def test_only_what_changed_is_recorded_and_comes_back(tmp_path: Path) -> None:
    net = cut_resnet()
    assert net.surgery is not None
    assert set(net.surgery.sizes) == {"layer2.0.conv1", "layer2.0.bn1", "layer2.0.conv2"}
    save_student(tmp_path, net)
    loaded = load_student(tmp_path)
    assert loaded.surgery == net.surgery
    assert torch.equal(loaded.module.eval()(X), net.module.eval()(X))
    assert loaded.module.layer2[0].conv1.weight.requires_grad
    again = tmp_path / "again"
    save_student(again, loaded)
    assert json.loads((again / "student.json").read_text()) == json.loads((tmp_path / "student.json").read_text())


def test_a_net_as_it_was_built_is_still_format_1(tmp_path: Path) -> None:
    save_student(tmp_path, resolve("resnet8", num_classes=10, in_channels=3))
    record = json.loads((tmp_path / "student.json").read_text())
    assert record["format"] == 1
    assert "surgery" not in record


GOOD: dict[str, Any] = {"factors": {}, "sizes": {}, "zeros": []}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"sizes": {"layer2.0.conv1": {"out_channels": 10**9}}}, "should become 1000000000, it is 32"),
        ({"sizes": {"layer2.0.conv1": {"out_channels": 64}}}, "should become 64"),
        ({"sizes": {"layer2.0.conv1": {"out_channels": -1}}}, "damaged"),
        ({"sizes": {"layer2.0.conv1": {"out_channels": True}}}, "damaged"),
        ({"sizes": {"layer2.0.conv1": {"__class__": 3}}}, "__class__ of layer2.0.conv1"),
        ({"sizes": {"layer2.0.conv1": {"forward": 3}}}, "forward of layer2.0.conv1"),
        ({"sizes": {"layer2.0.conv1": {"stride": [1, 1]}}}, "stride of layer2.0.conv1"),
        ({"sizes": {"layer2.0.conv1": {"groups": 5}}}, "should become 5, it is 1"),
        ({"sizes": {"layer9": {"out_channels": 3}}}, "has no layer layer9"),
        ({"sizes": {"__init__.__globals__": {"x": 3}}}, "has no layer"),
        ({"sizes": []}, "damaged"),
        ({"factors": {"conv1": [10**9]}}, "cannot have ranks"),
        ({"factors": {"conv1": [1, 2, 3]}}, "damaged"),
        ({"factors": {"bn1": [4]}}, "a BatchNorm2d, cannot have ranks"),
        ({"factors": {"conv1": ["os.system"]}}, "damaged"),
        ({"zeros": ["conv1"]}, "conv1, which is no parameter"),
        ({"zeros": [7]}, "damaged"),
        ({"code": "import os"}, "damaged"),
    ],
)
def test_a_hostile_record_is_refused(change: dict[str, Any], says: str, tmp_path: Path) -> None:
    save_student(tmp_path, resolve("resnet8", num_classes=10, in_channels=3))
    file = tmp_path / "student.json"
    record = json.loads(file.read_text())
    file.write_text(json.dumps({**record, "format": 2, "surgery": {**GOOD, **change}}))
    with pytest.raises(ModelError, match=says.replace("[", r"\[")):
        load_student(tmp_path)


def test_a_newer_format_is_not_guessed(tmp_path: Path) -> None:
    save_student(tmp_path, cut_resnet())
    file = tmp_path / "student.json"
    file.write_text(file.read_text().replace('"format": 2', '"format": 3'))
    with pytest.raises(ModelError, match="format 3"):
        load_student(tmp_path)


@pytest.mark.parametrize(
    ("layer", "ranks"),
    [
        (nn.Linear(12, 8), [3]),
        (nn.Conv2d(12, 8, 3, stride=2, padding=1, padding_mode="reflect"), [3, 5]),
        (nn.Conv2d(12, 8, (3, 1), dilation=2, bias=False), [4]),
    ],
)
def test_a_chain_reads_and_says_what_its_layer_did(layer: nn.Module, ranks: list[int]) -> None:
    x = torch.rand(2, 12, 16, 16) if isinstance(layer, nn.Conv2d) else torch.rand(2, 12)
    assert factorised(layer, ranks, "layer")(x).shape == layer(x).shape


def test_zeros_stay_zero_whatever_steps() -> None:
    for make in (
        lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.1),
        lambda p: torch.optim.AdamW(p, 0.1),
    ):
        layer = nn.Linear(6, 6)
        with torch.no_grad():
            layer.weight[:, ::2] = 0
        before = copy.deepcopy(layer.weight.detach())
        Surgery(zeros=("weight",)).hold_zeros(layer)
        optimizer = make(layer.parameters())
        for _ in range(3):
            optimizer.zero_grad()
            layer(torch.rand(4, 6)).square().sum().backward()
            optimizer.step()
        assert (layer.weight[:, ::2] == 0).all()
        assert (layer.weight[:, 1::2] != before[:, 1::2]).all()
