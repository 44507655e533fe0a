"""Listening to nets: :class:`Tapped` reports what layers put out, :class:`Frozen` only teaches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from potstill.errors import ModelError, did_you_mean
from potstill.types import Out


def find(net: nn.Module, path: str) -> nn.Module:
    """The module at ``path``, such as ``layer3``, ``features.0`` or ``features.-1`` (from the end).

    Raises:
        ModelError: there is none; the nearest paths are named.
    """
    module = net
    for i, part in enumerate(path.split(".")):
        children = dict(module.named_children())
        if part.startswith("-") and part[1:].isdigit() and int(part) >= -len(children):
            part = list(children)[int(part)]
        if part not in children:
            here = ".".join(path.split(".")[:i])
            names = [f"{here}.{c}" if here else c for c in children]
            guess = did_you_mean(path, [n for n, _ in net.named_modules() if n])
            raise ModelError(
                f"{type(net).__name__} has no layer {path!r}.{guess} {'In ' + repr(here) if here else 'At the top'}: "
                + (", ".join(names[:12]) + (", ..." if len(names) > 12 else "") if names else "no layers")
                + ".",
                hint="potstill inspect MODEL",
            )
        module = children[part]
    return module


def first_tensor(value: Any, what: str) -> Tensor:
    """``value`` itself, its ``logits``, or its first entry: what a net or a layer puts out, as one tensor."""
    if isinstance(value, Tensor):
        return value
    if isinstance(getattr(value, "logits", None), Tensor):
        value = value.logits
    elif isinstance(value, Mapping):
        value = value["logits"] if "logits" in value else next(iter(value.values()), None)
    elif isinstance(value, list | tuple) and value:
        value = value[0]
    if not isinstance(value, Tensor):
        raise ModelError(
            f"{what} must put out a tensor, or something with `.logits` or a tensor first, got {type(value).__name__}"
        )
    return value


class Tapped(nn.Module):
    """A net that also reports what some of its layers put out.

    The hooks live only as long as one forward pass: the net itself is left as it was given.

    Args:
        net: maps pictures to logits: a tensor, or anything whose ``.logits`` or first entry is one.
        spots: what to report beside ``logits``: a module path (``layer3``, ``features.-1``) for its output,
            ``path@in`` for its input (``fc@in`` is the penultimate vector; a ReLU's input is the pre-activation).
        prepare: applied to the pictures first: this net's own normalisation and size.
        order: where the classes of the data stand among the net's, (classes,), when it has them in another order.

    Raises:
        ModelError: a spot does not exist, does not run, runs more than once, or is overwritten in place afterwards.
    """

    def __init__(
        self,
        net: nn.Module,
        spots: Iterable[str] = (),
        prepare: nn.Module | None = None,
        order: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.net, self.prepare = net, prepare
        self.order: Tensor | None
        self.register_buffer("order", order, persistent=False)
        self.spots = tuple(dict.fromkeys(s for s in spots if s != "logits"))
        self.modules_at = {spot: partial(find, net, spot.removesuffix("@in")) for spot in self.spots}
        for locate in self.modules_at.values():
            locate()

    def forward(self, x: Tensor) -> Out:
        """What the net says about ``x``, (B, C, H, W): ``{"logits": (B, classes), spot: ...}``."""
        said: Out = {}
        version: dict[str, int] = {}

        def hear(spot: str, value: Any) -> None:
            if spot in said:
                raise ModelError(
                    f"layer {spot!r} runs more than once in a forward pass",
                    hint="tap a layer that runs once, for example the block around it",
                )
            said[spot] = value = first_tensor(value, f"layer {spot!r}")
            version[spot] = value._version

        def after(spot: str, module: nn.Module, args: Any, output: Any) -> None:
            hear(spot, output)

        def before(spot: str, module: nn.Module, args: Any) -> None:
            hear(spot, args)

        if self.prepare is not None:
            x = self.prepare(x)
        hooks = [
            self.modules_at[spot]().register_forward_pre_hook(partial(before, spot))
            if spot.endswith("@in")
            else self.modules_at[spot]().register_forward_hook(partial(after, spot))
            for spot in self.spots
        ]
        try:
            logits = first_tensor(self.net(x), type(self.net).__name__)
        finally:
            for hook in hooks:
                hook.remove()
        for spot in self.spots:
            if spot not in said:
                raise ModelError(f"layer {spot!r} did not run in the forward pass", hint="tap a layer that always runs")
            if said[spot]._version != version[spot]:
                raise ModelError(
                    f"what was heard at {spot!r} was overwritten by a later in-place layer (a ReLU with inplace=True?)",
                    hint="tap that layer instead, or set its inplace to False",
                )
        said["logits"] = logits if self.order is None else logits[:, self.order]
        return said


class Frozen(nn.Module):
    """A net that only teaches.

    It goes to whatever device its owner goes to, but it has no parameters to optimize, no state to save and no training
    mode to fall into: it is held outside the module tree, where optimizers, checkpoints, DDP and ``train()`` do not look.
    It runs without autograd (not under ``inference_mode``: such tensors cannot be saved for a student's backward).
    """

    net: nn.Module
    parts: list[nn.Module]

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        object.__setattr__(self, "net", net.eval())
        object.__setattr__(self, "parts", list(net.modules()))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Frozen:
        self.net._apply(fn)
        return self

    @torch.no_grad()
    def forward(self, x: Tensor) -> Any:
        if any(part.training for part in self.parts):  # its owner called train() on it, or on a part of it, since
            self.net.eval()
        return self.net(x)
