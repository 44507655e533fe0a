"""What a net is called, what it costs, and how it is introduced to people."""

from __future__ import annotations

import copy
from typing import Any

import torch

from potstill import cost
from potstill.models.net import Net
from potstill.models.preprocess import Preprocess
from potstill.ready import READS, Ready


def label(net: Net) -> str:
    """What to call a net: its source, what it was made with, what was cut since: ``zoo:cnn(widths=(8, 16)), pruned``."""
    made = {k: v for k, v in net.kwargs.items() if k not in ("num_classes", "in_channels")}
    name = net.spec + (f"({', '.join(f'{k}={v!r}' for k, v in made.items())})" if made else "")
    return ", ".join([name, *(net.surgery.words if net.surgery else ())])


def count(n: float) -> str:
    """1466 -> ``1,466``; 7433860 -> ``7.43 M``."""
    return f"{n:,.0f}" if n < 100_000 else f"{n / 1e6:.2f} M" if n < 1e9 else f"{n / 1e9:.2f} G"


def card(net: Net, ready: Ready) -> dict[str, Any]:
    """What a net costs, for run.json."""
    module = copy.deepcopy(net.module).to("cpu", memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]
    c, h, w = ready.splits.shape
    own = net.preprocess or Preprocess()
    shape = (own.channels or c, *(own.size or (h, w)))
    return {
        "model": label(net),
        "kwargs": dict(net.kwargs),
        "parameters": cost.parameters(module),
        "macs": cost.macs(module, shape),
        "bytes": cost.size_bytes(module),
        "latency_ms": cost.latency_ms(module, shape),
        "sha256": net.sha256,
    }


def introduce(who: str, net: Net, ready: Ready, tail: str = "") -> None:
    """A net in the preflight: what it is, by what it normalises, and what its source had to say."""
    reads = next((n.removeprefix(READS) for n in net.notices if n.startswith(READS)), "")
    size = count(cost.parameters(net.module))
    ready.say(f"{who:<8} {label(net)}  {size} parameters" + (f", mean and std {reads.strip()}" if reads else "") + tail)
    for notice in net.notices:
        if not notice.startswith(READS):
            ready.say(f"         {notice}")
