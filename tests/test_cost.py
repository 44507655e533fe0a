import time

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from potstill import cost
from potstill.models.cnn import CNN


class Attention(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(x, x, x)


TOKENS, WIDTH = 6, 8
ENCODER = TOKENS * WIDTH * WIDTH * (3 + 1 + 2) + 2 * TOKENS * TOKENS * WIDTH
"""Of an encoder layer: q, k, v, the projection, two Linears of the same width; and the two products of attention."""


@pytest.mark.parametrize(
    ("module", "shape", "macs"),
    [
        (nn.Conv2d(3, 8, 3, padding=1), (3, 10, 6), 10 * 6 * 8 * 3 * 9),
        (nn.Conv2d(4, 8, 3, stride=2, groups=4), (4, 9, 9), 4 * 4 * 8 * 1 * 9),
        (nn.Conv2d(2, 3, (1, 5), dilation=2), (2, 4, 12), 4 * 4 * 3 * 2 * 5),
        (nn.ConvTranspose2d(2, 3, 2, stride=2), (2, 4, 4), 16 * 2 * 3 * 4),
        (nn.Linear(5, 7), (5,), 35),
        (nn.Linear(5, 7, bias=False), (4, 5), 4 * 35),
        (nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2)), (3, 8, 8), 0),
        (Attention(), (2, 6, 4), 2 * 2 * 6 * 6 * 4),
        (nn.TransformerEncoderLayer(WIDTH, 2, WIDTH, batch_first=True), (TOKENS, WIDTH), ENCODER),
    ],
)
def test_macs(module: nn.Module, shape: tuple[int, ...], macs: int) -> None:
    assert cost.macs(module, shape) == macs
    assert cost.macs(module.to("meta"), shape) == macs


def test_a_layer_that_runs_twice_costs_twice_but_has_its_parameters_once() -> None:
    shared = nn.Linear(4, 4)
    net = nn.Sequential(shared, nn.ReLU(), shared)
    assert cost.macs(net, (4,)) == 32
    assert cost.parameters(net) == 20
    assert cost.size_bytes(net) == 80


def test_size_is_that_of_the_float32_state() -> None:
    net = nn.Sequential(nn.Linear(3, 5, dtype=torch.float64), nn.BatchNorm1d(5, dtype=torch.float16))
    assert cost.parameters(net) == 20 + 10
    assert cost.size_bytes(net) == 4 * (20 + 10 + 10) + 8


def test_half_precision_nets_are_measured_as_they_are() -> None:
    assert cost.macs(nn.Linear(3, 4, dtype=torch.bfloat16), (3,)) == 12


def test_latency_grows_with_the_net_and_is_a_median() -> None:
    small, large = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 256, 7)
    assert 0 < cost.latency_ms(small, (3, 32, 32)) < cost.latency_ms(large, (3, 32, 32)) < 1000


def test_latency_counts_after_warming_up_and_in_one_thread() -> None:
    seen = []

    class Spy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append((x.shape, torch.get_num_threads(), torch.is_grad_enabled(), self.training))
            return x

    cost.latency_ms(Spy(), (3, 4, 4), repeats=7, warmup=2)
    assert seen == [((1, 3, 4, 4), 1, False, False)] * 9


def test_latency_forgets_the_warm_up() -> None:
    naps = iter([0.05, 0.05, 0.05])

    class Sleepy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            time.sleep(next(naps, 0))
            return x

    assert cost.latency_ms(Sleepy(), (1,), warmup=3, repeats=1) < 25


@pytest.mark.parametrize("measure", [cost.macs, cost.latency_ms])
def test_the_net_and_the_machine_are_left_as_they_were(measure) -> None:
    net = CNN((4,), in_channels=1).train()
    net.features.stage1[1].eval()
    state = {k: v.clone() for k, v in net.state_dict().items()}
    modes = [m.training for m in net.modules()]
    threads, random = torch.get_num_threads(), torch.get_rng_state()
    torch.set_num_threads(2)
    try:
        measure(net, (1, 8, 8))
        assert torch.get_num_threads() == 2
        with pytest.raises(RuntimeError):
            measure(net, (2, 8, 8))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert [m.training for m in net.modules()] == modes
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.is_grad_enabled()
    assert torch.backends.mha.get_fastpath_enabled()
