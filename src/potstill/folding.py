"""Folding batch norms into the convolutions before them, in a net whose modules keep their paths."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from potstill.taps import Tapped, find, first_tensor

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def fold(tapped: Tapped) -> str | None:
    """Fold batch norms into the convolutions before them, in place; why nothing was folded, or None.

    A norm that is folded becomes an ``nn.Identity``, so every module keeps its path and says what it said. A pair stays where
    the convolution's own output is read: by a spot, by another layer, by a hook of the user's; or where it runs more than once.
    """
    net = tapped.net
    try:
        graph = fx.Tracer().trace(_Logits(net))
    except Exception as error:  # whatever the net's own code does when it meets a proxy
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        return f"torch.fx cannot trace {type(net).__name__} ({reason})"
    calls = [node for node in graph.nodes if node.op == "call_module"]
    targets = [str(node.target).removeprefix("net.") for node in calls]
    read = {str(node.target).removeprefix("net.") for node in graph.nodes if node.op == "get_attr"}
    uses: dict[int, int] = {}
    for path in targets:
        uses[id(net.get_submodule(path))] = uses.get(id(net.get_submodule(path)), 0) + 1
    folded = 0
    for node, path in zip(calls, targets, strict=True):
        before = node.args[0] if len(node.args) == 1 and not node.kwargs else None
        if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) > 1:
            continue
        place = str(before.target).removeprefix("net.")
        conv, norm = net.get_submodule(place), net.get_submodule(path)
        if type(conv) not in CONVOLUTIONS or type(norm) not in NORMS or _hooked(conv) or _hooked(norm):
            continue
        if norm.running_mean is None or conv.training or norm.training:
            continue
        if uses[id(conv)] > 1 or uses[id(norm)] > 1 or any(r.startswith((place + ".", path + ".")) for r in read):
            continue
        if any(_between(tapped, spot, conv, norm) for spot in tapped.spots):
            continue
        _put(net, place, fuse_conv_bn_eval(conv, norm))  # type: ignore[type-var, arg-type]
        _put(net, path, nn.Identity())
        folded += 1
    return None if folded else "no batch norm follows a convolution whose output nobody else reads"


class _Logits(nn.Module):
    """The net with its answer as one value, whatever it is wrapped in: fx cannot give back a user's own class."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Any:
        said = self.net(x)
        return said if isinstance(said, fx.Proxy) or _of_proxies(said) else first_tensor_or_proxy(said)


def _of_proxies(value: Any) -> bool:
    """Whether fx can give it back as it stands: a tuple or dict of proxies."""
    parts: Iterable[Any] = value.values() if type(value) is dict else value if type(value) in (tuple, list) else ()
    return any(isinstance(part, fx.Proxy) for part in parts)


def first_tensor_or_proxy(value: Any) -> Any:
    logits = getattr(value, "logits", None)
    return logits if isinstance(logits, fx.Proxy) else first_tensor(value, "the net")


def _between(tapped: Tapped, spot: str, conv: nn.Module, norm: nn.Module) -> bool:
    """Whether a spot may be what passes between the two: the output of a module that holds the convolution alone, or the input
    of one that holds the norm alone."""
    place, is_input = spot.split("#")[0].removesuffix("@in"), "@in" in spot
    inside = {*find(tapped.net, place).modules()}
    return (norm in inside and conv not in inside) if is_input else (conv in inside and norm not in inside)


def _put(net: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(net.get_submodule(parent), name, module)


def _hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)
