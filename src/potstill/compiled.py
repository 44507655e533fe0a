"""Compiling the nets of a scheme with ``torch.compile``."""

from __future__ import annotations

from torch import nn

from potstill.schemes.scheme import Scheme
from potstill.schemes.spot_adaptive import SpotAdaptive
from potstill.taps import Frozen, Tapped
from potstill.teacher import Swift


def compile_nets(scheme: Scheme | SpotAdaptive, device: str, *others: Scheme | SpotAdaptive) -> list[str]:
    """Compile every net that is not listened to inside, by this scheme or by ``others`` that share its nets; on CUDA with
    graphs, which save the launches.

    A compiled net does not call hooks, so a net with hidden spots stays as it is. Shapes are not made dynamic: the last,
    smaller batch of an epoch has its own code. A teacher that was made faster is left: there it was measured what pays.

    Returns:
        notices: which nets were left as they are.
    """
    nets: dict[str, nn.Module] = {}
    spots: dict[str, dict[str, None]] = {}
    for each in (scheme, *others):
        for name in each.active:
            wrapped: nn.Module = each.nets[name]
            tapped = wrapped.net if isinstance(wrapped, Frozen) else wrapped
            assert isinstance(tapped, Tapped)
            if isinstance(tapped, Swift):
                continue
            nets[name] = tapped.net
            spots.setdefault(name, {}).update(dict.fromkeys(tapped.spots))
    for name, net in nets.items():
        if not spots[name]:
            net.compile(mode="reduce-overhead" if device == "cuda" else "default", dynamic=False)
    return [
        f"compile: {name} is listened to at {', '.join(heard)}, so it is not compiled"
        for name, heard in spots.items()
        if heard
    ]
