"""Metrics against scikit-learn and by hand."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, confusion_matrix, log_loss, recall_score, top_k_accuracy_score
from torch import nn

from potstill.data import ArrayData, Stream
from potstill.errors import DataError, DivergedError, ModelError
from potstill.metrics import confusion, evaluate, from_logits, per_class
from potstill.types import Batch


def logits(n: int = 400, c: int = 10, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(0, c, (n,), generator=g)
    z = torch.randn(n, c, generator=g)
    z[torch.arange(n), y] += 1.5
    return z, y


def test_against_scikit_learn() -> None:
    z, y = logits()
    p = z.double().softmax(1).numpy()
    m = from_logits(z, y)
    assert m["top1"] == pytest.approx(accuracy_score(y, z.argmax(1)), abs=1e-6)
    assert m["top5"] == pytest.approx(top_k_accuracy_score(y, z.numpy(), k=5), abs=1e-6)
    assert m["nll"] == pytest.approx(log_loss(y, p, labels=range(10)), rel=1e-5)
    assert list(m) == ["top1", "nll", "ece", "top5"]
    assert all(type(v) is float for v in m.values())


def test_ece_by_hand() -> None:
    z, y = logits(1000, 4, 1)
    p = z.double().softmax(1).numpy()
    confidence, right = p.max(1), p.argmax(1) == y.numpy()
    edges, total = np.linspace(0, 1, 16), 0.0
    for low, high in pairwise(edges):
        here = (confidence > low) & (confidence <= high)
        if here.any():
            total += here.mean() * abs(right[here].mean() - confidence[here].mean())
    assert from_logits(z, y)["ece"] == pytest.approx(total, abs=1e-5)
    # two samples, sure of 0.9, one right: |1/2 - 0.9|
    z = torch.log(torch.tensor([[0.9, 0.1], [0.9, 0.1]]))
    assert from_logits(z, torch.tensor([0, 1]))["ece"] == pytest.approx(0.4, abs=1e-6)
    # the two lowest bins are two: 0.06 and right, 0.1 and wrong, do not make up for each other
    p = torch.tensor([[0.06] + [0.94 / 19] * 19, [0.1] + [0.9 / 19] * 19])
    assert from_logits(torch.log(p), torch.tensor([0, 1]))["ece"] == pytest.approx((0.94 + 0.1) / 2, abs=1e-5)
    assert from_logits(100 * torch.eye(3), torch.arange(3))["ece"] == pytest.approx(0, abs=1e-6)


def test_top5_needs_more_than_five_classes() -> None:
    assert "top5" not in from_logits(*logits(c=5))
    assert "top5" in from_logits(*logits(c=6))
    assert from_logits(torch.zeros(10, 8), torch.arange(10) % 8)["top5"] < 1  # ties do not count for all


def test_agreement() -> None:
    z, y = logits()
    t, _ = logits(seed=1)
    m = from_logits(z, y, t)
    assert m["agreement"] == pytest.approx((z.argmax(1) == t.argmax(1)).double().mean().item(), abs=1e-6)
    assert from_logits(z, y, z)["agreement"] == 1
    assert {k: v for k, v in m.items() if k != "agreement"} == from_logits(z, y)
    with pytest.raises(ModelError, match=r"\(400, 10\) and \(400, 9\)"):
        from_logits(z, y, t[:, :9])
    with pytest.raises(ModelError, match=r"\(400, 10\) and \(1, 10\)"):  # would broadcast
        from_logits(z, y, t[:1])


def test_samples_without_a_label_are_skipped() -> None:
    z, y = logits()
    t, _ = logits(seed=1)
    hidden = torch.where(torch.arange(400) % 3 == 0, -1, y)
    known = hidden >= 0
    m, expected = from_logits(z, hidden, t), from_logits(z[known], y[known])
    for k, v in expected.items():
        assert m[k] == pytest.approx(v, abs=1e-6)
    assert m["agreement"] == from_logits(z, y, t)["agreement"]  # needs no label
    assert from_logits(z, torch.full((400,), -1)) == {}
    assert list(from_logits(z, torch.full((400,), -1), t)) == ["agreement"]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_logits_that_are_not_finite_are_refused(bad: float) -> None:
    z, y = logits()
    z[7, 3] = bad
    with pytest.raises(DivergedError, match="1 of 400 samples, first sample 7"):
        from_logits(z, y)
    with pytest.raises(DivergedError, match="teacher"):
        from_logits(*logits(), z)
    with pytest.raises(DivergedError):
        per_class(z, y, 10)


@pytest.mark.parametrize("bad", [10, -2, -100])
def test_labels_out_of_range_are_refused(bad: int) -> None:
    z, y = logits()
    y[5] = bad
    with pytest.raises(DataError, match=rf"label {bad} of sample 5 .* 10 classes"):
        from_logits(z, y)
    with pytest.raises(DataError, match=rf"label {bad} of sample 5"):
        confusion(z, y, 10)


def test_half_precision_is_measured_in_float32() -> None:
    z, y = logits()
    half = z.bfloat16()
    assert from_logits(half, y) == from_logits(half.float(), y)


def test_per_class_and_confusion() -> None:
    z, y = logits()
    table = confusion(z, y, 10)
    assert np.array_equal(table.numpy(), confusion_matrix(y, z.argmax(1)))
    assert per_class(z, y, 10).tolist() == pytest.approx(recall_score(y, z.argmax(1), average=None).tolist(), abs=1e-6)
    few = torch.where(y == 4, -1, y).numpy()  # arrays are taken too
    shares = per_class(z, few, 10)  # type: ignore[arg-type]
    assert shares[4].isnan()
    assert shares[[0, 9]].tolist() == per_class(z, y, 10)[[0, 9]].tolist()
    assert confusion(z, torch.as_tensor(few), 10).sum() == (few >= 0).sum()
    with pytest.raises(ModelError, match="9 classes"):
        per_class(z, y, 9)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.bn, self.drop, self.head = nn.BatchNorm2d(3), nn.Dropout(0.5), nn.Linear(48, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.drop(self.bn(x).flatten(1)))


def data(n: int = 50) -> ArrayData:
    x = np.random.default_rng(0).integers(0, 256, (n, 3, 4, 4), dtype=np.uint8)
    return ArrayData(x, np.arange(n) % 10)


def test_evaluate_is_in_eval_mode_and_in_the_order_of_the_data() -> None:
    net, d = Net(), data()
    net.drop.eval()
    modes = [m.training for m in net.modules()]
    before = {k: v.clone() for k, v in net.state_dict().items()}
    m, z = evaluate(net, Stream(d, 16, shuffle=False))
    assert [m.training for m in net.modules()] == modes
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    net.eval()
    with torch.no_grad():
        expected = net(torch.from_numpy(d.images) / 255)
    assert torch.allclose(z, expected, atol=1e-6)
    assert not z.requires_grad
    assert m == from_logits(z, torch.from_numpy(d.labels))
    again, _ = evaluate(lambda x: net(x), Stream(d, 50, shuffle=False), z)
    assert again["agreement"] == 1


def test_modes_come_back_after_an_error() -> None:
    net = Net()
    net.head = nn.Linear(3, 3)
    with pytest.raises(RuntimeError):
        evaluate(net, Stream(data(), 16, shuffle=False))
    assert net.training
    assert net.bn.training


def test_evaluate_refuses_what_it_cannot_measure() -> None:
    with pytest.raises(ValueError, match="shuffles"):
        evaluate(Net(), Stream(data(), 16))
    with pytest.raises(ModelError, match=r"\(16, classes\), got dict"):
        evaluate(lambda x: {"logits": x}, Stream(data(), 16, shuffle=False))  # type: ignore[arg-type, return-value]
    with pytest.raises(ModelError, match=r"got \(16, 3, 4, 4\)"):
        evaluate(lambda x: x, Stream(data(), 16, shuffle=False))
    with pytest.raises(DivergedError):
        evaluate(lambda x: torch.full((len(x), 10), math.nan), Stream(data(), 16, shuffle=False))


def test_any_stream_of_that_form_will_do() -> None:
    class Two:
        def epoch(self, e: int, start: int = 0) -> Iterator[Batch]:
            for i in range(2):
                n = torch.arange(4)
                yield Batch(torch.full((4, 1), float(i)), n % 2, n, n)

    m, z = evaluate(lambda x: torch.cat((x, 1 - x), 1), Two())
    assert z.tolist() == [[0, 1]] * 4 + [[1, 0]] * 4
    assert m["top1"] == 0.5


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_gives_the_same_measures_with_one_wait() -> None:
    z, y = logits()
    t, _ = logits(seed=1)
    expected = from_logits(z, y, t)
    cuda = [v.cuda() for v in (z, y, t)]
    torch.cuda.set_sync_debug_mode("error")
    try:
        with pytest.raises(RuntimeError, match="synchroniz"):  # the wait at the end, which the mode finds
            from_logits(*cuda)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert from_logits(*cuda) == pytest.approx(expected, abs=1e-6)
