"""Compiling the nets of a scheme with ``torch.compile``."""

from __future__ import annotations

from torch import nn

from potstill.schemes.scheme import Scheme
from potstill.taps import Frozen, Tapped


def compile_nets(scheme: Scheme, device: str) -> list[str]:
    """Compile every net of the scheme that is not listened to inside; on CUDA with graphs, which save the launches.

    A compiled net does not call hooks, so a net with hidden spots stays as it is. Shapes are not made dynamic: the last,
    smaller batch of an epoch has its own code.

    Returns:
        notices: which nets were left as they are.
    """
    notices = []
    for name in scheme.active:
        wrapped: nn.Module = scheme.nets[name]
        tapped = wrapped.net if isinstance(wrapped, Frozen) else wrapped
        assert isinstance(tapped, Tapped)
        if tapped.spots:
            notices.append(f"compile: {name} is listened to at {', '.join(tapped.spots)}, so it is not compiled")
        else:
            tapped.net.compile(mode="reduce-overhead" if device == "cuda" else "default", dynamic=False)
    return notices
