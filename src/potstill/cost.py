"""What a net costs: parameters, multiply-adds, bytes, milliseconds. The net is left as it was."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from potstill.types import Shape


@contextmanager
def at_rest(module: nn.Module) -> Iterator[None]:
    """Eval mode and no gradients; afterwards every submodule has its own mode again."""
    modes = [(m, m.training) for m in module.modules()]
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for m, mode in modes:
            m.training = mode


@contextmanager
def open_attention() -> Iterator[None]:
    """Attention as plain matrix products: the counter does not know every fused kernel (on the CPU, none)."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def noise(module: nn.Module, shape: Shape) -> Tensor:
    """One sample of ``shape`` in [0, 1], where the module is and of its kind of numbers; no global random state is touched."""
    like = next((p for p in module.parameters() if p.is_floating_point()), torch.empty(0))
    generator = torch.Generator().manual_seed(0)
    return torch.rand(1, *shape, generator=generator).to(like.device, like.dtype)


def parameters(module: nn.Module) -> int:
    """Number of parameters; one that is used in two places counts once, buffers do not count."""
    return sum(p.numel() for p in module.parameters())


def macs(module: nn.Module, shape: Shape) -> int:
    """Multiply-adds of one forward pass of one sample: convolutions and matrix products (those of attention too).

    Bias, BatchNorm, activations and pooling do not count, as in the tables of the field.

    Args:
        module: the net; it runs once, in eval mode. On the ``meta`` device nothing is computed.
        shape: of one sample, (C, H, W).
    """
    with at_rest(module), open_attention(), FlopCounterMode(display=False) as counter:
        module(noise(module, shape))
    return counter.get_total_flops() // 2


def size_bytes(module: nn.Module) -> int:
    """Bytes of the state dict in float32: parameters and buffers, each once; integers keep their own size."""
    tensors = {id(t): t for t in module.state_dict(keep_vars=True).values() if isinstance(t, Tensor)}
    return sum(t.numel() * (4 if t.is_floating_point() else t.element_size()) for t in tensors.values())


def latency_ms(module: nn.Module, shape: Shape, *, repeats: int = 30, warmup: int = 5, threads: int = 1) -> float:
    """Median time of a forward pass of one sample, in milliseconds, in eval mode and without gradients.

    Args:
        module: the net, on the device to be measured.
        shape: of one sample, (C, H, W).
        repeats: passes that count.
        warmup: passes before them.
        threads: of the processor; torch's number of threads is put back afterwards.
    """
    x = noise(module, shape)
    before = torch.get_num_threads()
    times = []
    torch.set_num_threads(threads)
    try:
        with at_rest(module):
            for _ in range(warmup + repeats):
                start = time.perf_counter()
                module(x)
                if x.is_cuda:
                    torch.cuda.synchronize(x.device)
                times.append(time.perf_counter() - start)
    finally:
        torch.set_num_threads(before)
    return 1000 * statistics.median(times[warmup:])
