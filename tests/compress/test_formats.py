import json
import math

import pytest
import torch
from torch import Tensor, nn

from potstill.compress import guards, posttrain
from potstill.compress.formats import layer_nodes, onnx_model, write_onnx, write_pte
from potstill.compress.program import Whole, capture, card, picture_shape
from potstill.compress.runtimes import EagerNet, open_artefact
from potstill.errors import ConfigError, DataError, ModelError
from potstill.models.net import Net
from tests.compress.edge_case import Small


@pytest.mark.parametrize("kind", ["onnx", "pt2"])
def test_a_file_says_what_the_net_says_for_any_batch_and_memory_format(case, kind, request):
    path = request.getfixturevalue(f"float_{kind}")
    artefact, eager = open_artefact(path), EagerNet(case.net)
    for n in (1, 3, 300):
        x = case.x[:n]
        want = eager.logits(x)
        for given in (
            x,
            x.contiguous(memory_format=torch.channels_last),
            x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2),
        ):
            assert torch.allclose(artefact.logits(given), want, atol=1e-4)
    normalised = case.net.preprocess(case.x[:50])  # the preprocessing is inside, once
    assert torch.allclose(artefact.logits(case.x[:50]), case.net.module(normalised).detach(), atol=1e-4)


@pytest.mark.parametrize("kind", ["onnx", "pt2"])
def test_a_file_knows_what_it_is_and_nothing_of_this_machine(case, kind, request):
    path = request.getfixturevalue(f"float_{kind}")
    said = open_artefact(path).card
    assert said["classes"] == [str(i) for i in range(10)]
    assert said["preprocess"] == case.net.preprocess.to_json()
    assert said["picture"] == [1, 8, 8]
    assert said["potstill"]
    assert said["licence"] == ("Apache-2.0" if kind == "onnx" else None)
    assert b"edge_case.py" not in path.read_bytes()  # no path of the code that made it
    assert path.stat().st_size < 60_000


def test_pictures_that_are_none_are_refused(float_onnx, case):
    artefact = open_artefact(float_onnx)
    with pytest.raises(DataError, match=r"1x8x8.*\(2, 3, 8, 8\)"):
        artefact.logits(torch.rand(2, 3, 8, 8))
    with pytest.raises(DataError, match=r"\[0, 1\]"):
        artefact.logits(case.x[:2] * 255)
    with pytest.raises(DataError, match=r"\[0, 1\]"):
        artefact.logits(torch.full((1, 1, 8, 8), math.nan))


class Gate(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.mean().item() > 0 else x


def test_a_net_that_cannot_be_exported_names_the_module():
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Sequential(nn.ReLU(), Gate()), nn.Flatten(), nn.Linear(72, 10))
    with pytest.raises(ModelError, match=r"'1\.1' \(Gate\)"):
        capture(Whole(Net(module, "object:Gated")), (1, 8, 8))
    with pytest.raises(ModelError, match="shape its pictures"):
        picture_shape(Net(module, "object:Gated"))


def test_capturing_leaves_the_net_as_it_was(case):
    module = Small().train()
    before = {k: v.clone() for k, v in module.state_dict().items()}
    capture(Whole(Net(module, "object:Small")), (1, 8, 8))
    assert module.training
    assert all(p.requires_grad for p in module.parameters())
    assert not any(m._forward_pre_hooks for m in module.modules())
    assert all(torch.equal(before[k], v) for k, v in module.state_dict().items())


def test_an_opset_that_does_not_exist(case):
    with pytest.raises(ConfigError, match=r"18\.\.23"):
        onnx_model(capture(Whole(case.net), (1, 8, 8)), card(case.net), opset=3)


@pytest.mark.parametrize(("per_channel", "target"), [(True, "x86"), (False, "x86"), (True, "arm")])
def test_static_int8_answers_as_the_float_net(case, float_onnx, tmp_path, per_channel, target):
    model = guards.checked_onnx(float_onnx)
    made = posttrain.static(model, case.calibration, per_channel=per_channel, target=target)
    artefact = open_artefact(write_onnx(made, tmp_path / "q.onnx", card(case.net, "int8")))
    floats = EagerNet(case.net).logits(case.x)
    z = artefact.logits(case.x)
    assert (z.argmax(1) == floats.argmax(1)).float().mean() > 0.97
    assert not torch.equal(z, floats)
    kinds = {i.name: i.data_type for i in made.graph.initializer}
    layers = [n for n in made.graph.node if n.op_type == "DequantizeLinear" and "weight_quantized" in n.input[0]]
    assert len(layers) == 3
    assert all(kinds[n.input[0]] == 3 for n in layers)  # int8
    sizes = [list(i.dims) for i in made.graph.initializer if i.name == "net.first.0.weight_scale"]
    assert sizes == [[8] if per_channel else []]
    zeros = {kinds[n.input[2]] for n in made.graph.node if n.op_type == "QuantizeLinear"}
    assert zeros == {2 if target == "x86" else 3}  # activations in uint8, or int8


def test_layers_that_are_kept_stay_float(case, float_onnx):
    model = guards.checked_onnx(float_onnx)
    assert [path for path, _ in layer_nodes(model)] == ["first.0", "second.0", "fc"]
    made = posttrain.static(model, case.calibration, keep=["second.0"])
    assert [path for path, _ in layer_nodes(made)] == ["second.0"]
    with pytest.raises(ConfigError, match=r"Did you mean 'second\.0'"):
        posttrain.static(model, case.calibration, keep=["secnd.0"])


def test_weights_alone_take_the_bits_that_they_say(case, float_onnx, tmp_path):
    model = guards.checked_onnx(float_onnx)
    floats = EagerNet(case.net).logits(case.x)
    sizes = {"float32": float_onnx.stat().st_size}
    off = {}
    for name, made in (
        ("int8-weights", posttrain.weights_only(model, 8)),
        ("int4-weights", posttrain.weights_only(model, 4)),
        ("bf16", posttrain.bf16(model)),
    ):
        path = write_onnx(made, tmp_path / f"{name}.onnx", card(case.net, name))
        sizes[name] = path.stat().st_size
        off[name] = float((open_artefact(path).logits(case.x) - floats).abs().mean())
    n = sum(m.weight.numel() for m in case.net.module.modules() if isinstance(m, nn.Conv2d | nn.Linear))
    base = sizes["float32"] - 4 * n
    assert sizes["int8-weights"] - base == pytest.approx(n, abs=700)
    assert sizes["int4-weights"] - base == pytest.approx(n / 2, abs=700)
    assert sizes["bf16"] - base == pytest.approx(2 * n, abs=700)
    assert 0 < off["bf16"] < 0.05
    assert 0 < off["int8-weights"] < 0.1 < off["int4-weights"] < 1


@pytest.mark.parametrize(("bits", "top"), [(8, 127), (4, 7)])
def test_rounding_is_symmetric_and_by_channel(bits, top):
    w = torch.tensor([[1.0, -0.4, 0.25], [0.0, 0.0, 0.0]]).numpy()
    q, scale = posttrain.rounded(w, bits, 0)
    assert q[0].tolist() == [top, round(-0.4 * top), round(top / 4)]
    assert q[1].tolist() == [0, 0, 0]
    assert scale[0].item() == pytest.approx(1 / top)


def test_four_bits_are_packed_low_first():
    assert posttrain.packed(torch.tensor([1.0, -1.0, 7.0]).numpy(), 4) == bytes([0xF1, 0x07])


def test_the_card_is_json(case):
    assert json.loads(json.dumps(card(case.net))) == card(case.net)


@pytest.mark.slow  # needs the extra `mobile`, 550 MB
def test_a_file_of_executorch_says_what_the_net_says(tmp_path):
    pytest.importorskip("executorch.exir")
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2), nn.Flatten(), nn.Linear(8 * 4, 10))
    net = Net(nn.Sequential(*layers).eval(), "object:small", classes=[str(i) for i in range(10)])
    net.in_channels, net.size = 3, (8, 8)
    program = capture(Whole(net), picture_shape(net), dynamic=False)
    run = open_artefact(write_pte(program, tmp_path / "net.pte", card(net)))
    x = torch.rand(5, 3, 8, 8).contiguous(memory_format=torch.channels_last)  # taken as it lies, it is wrong
    assert torch.allclose(run.logits(x), EagerNet(net).logits(x), atol=1e-4)
    assert run.classes == net.classes
