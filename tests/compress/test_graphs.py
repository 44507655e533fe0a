import copy

import pytest
import torch

from potstill.compress import aware, formats, graphs
from potstill.compress.program import Whole, capture, card
from potstill.compress.runtimes import open_artefact
from potstill.data import Stream
from potstill.errors import ConfigError, ModelError
from potstill.losses.kd import KD

SHAPE = (1, 8, 8)


def prepared(case, **settings):
    graph = graphs.prepared(Whole(case.net), SHAPE, **settings)
    graphs.calibrate(graph, case.calibration)
    return graph


@pytest.fixture(scope="module")
def four(case):
    return prepared(case, bits=4)


def answers(z, t):
    return float((z.argmax(1) == t.argmax(1)).float().mean())


@torch.no_grad()
def test_what_was_trained_is_what_is_converted_and_exported(case, four, tmp_path):
    graph, whole = copy.deepcopy(four), Whole(case.net)
    floats = whole(case.x)
    before = KD(1.0)(graph(case.x), floats).mean()
    batches = aware.endless(Stream(case.splits.train, 64).epoch)
    with torch.enable_grad():
        aware.train(graph, batches, 40, whole)
    for fake in graphs.fakes(graph):
        fake.disable_observer()
    trained = graph(case.x)
    assert KD(1.0)(trained, floats).mean() < 0.7 * before
    program = graphs.convert(graph, SHAPE)
    assert torch.equal(program.module()(case.x), trained)  # torchao by itself computes other scales
    pt2 = open_artefact(formats.write_pt2(program, tmp_path / "q.pt2", card(case.net, "int4")))
    assert torch.equal(pt2.logits(case.x), trained)
    made = formats.onnx_model(program, card(case.net, "int4"))
    onnx = open_artefact(formats.write_onnx(made, tmp_path / "q.onnx"))
    assert answers(onnx.logits(case.x), trained) > 0.98
    assert sum(n.op_type == "DequantizeLinear" for n in made.graph.node) >= 7
    assert {i.data_type for i in made.graph.initializer} >= {2, 3}  # uint8 activations, int8 weights


@torch.no_grad()
def test_without_training_the_ranges_are_those_of_the_calibration(case, four):
    graph, floats = copy.deepcopy(four), Whole(case.net)(case.x)
    program = graphs.convert(graph, SHAPE)  # straight after the calibration: no forward pass between
    assert answers(program.module()(case.x), floats) > 0.85


@torch.no_grad()
def test_the_graph_has_the_bits_and_the_channels(case, four):
    weights = [f for f in graphs.fakes(four) if f.quant_min == -f.quant_max]
    assert len(weights) == 3
    assert {(f.quant_min, f.quant_max) for f in weights} == {(-7, 7)}
    assert sorted(f.scale.numel() for f in weights) == [8, 8, 10]
    sums = [n for n in four.graph.nodes if n.target in graphs.SUMS]
    assert all("activation_post_process" in str(a.target) for n in sums for a in n.args[:2])
    assert not any("batch_norm" in str(n.target) for n in four.graph.nodes)


def test_kept_layers_stay_float(case):
    graph = graphs.prepared(Whole(case.net), SHAPE, keep=["fc"], per_channel=False)
    weights = [f for f in graphs.fakes(graph) if f.quant_min == -f.quant_max]
    assert len(weights) == 2
    with pytest.raises(ConfigError, match="Did you mean 'fc'"):
        graphs.prepared(Whole(case.net), SHAPE, keep=["fcc"])
    with pytest.raises(ConfigError, match="2 to 8 bits"):
        graphs.prepared(Whole(case.net), SHAPE, bits=1)


def test_features_are_matched_at_the_stages(case, four):
    graph = copy.deepcopy(four)
    features = aware.Features(graph, case.net, ["first", "second"], 1.0)
    features.watch()
    graph(case.x[:64])
    loss = features.loss(case.x[:64])
    assert 0 < float(loss) < 0.2  # 4-bit weights: near, not equal
    loss.backward()
    grads = {n: p.grad for n, p in graph.named_parameters()}
    assert grads["net.first.0.weight"].abs().sum() > 0
    assert grads["net.fc.weight"] is None
    with pytest.raises(ModelError, match="no layer 'nowhere'"):
        aware.Features(graph, case.net, ["nowhere"])


def test_learning_from_labels_alone(case, four):
    graph = copy.deepcopy(four)
    first = aware.train(graph, aware.endless(Stream(case.splits.train, 64).epoch), 1, None, lr=0.02)
    last = aware.train(graph, aware.endless(Stream(case.splits.train, 64).epoch), 40, None, lr=0.02)
    assert last < first


def test_a_captured_program_takes_one_picture_when_it_must(case):
    program = capture(Whole(case.net), SHAPE, dynamic=False)
    assert program.module()(case.x[:1]).shape == (1, 10)
