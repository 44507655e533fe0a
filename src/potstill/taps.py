"""Listening to nets: :class:`Tapped` reports what layers put out, :class:`Frozen` only teaches."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from potstill.errors import ModelError, did_you_mean
from potstill.types import Out


class Spot(NamedTuple):
    """A spot, taken apart: ``path``, ``path@in`` (its input), ``path#2`` and ``path@in#2`` (of its second call).

    Attributes:
        path: of the module.
        given: whether its input is meant, else its output.
        call: which of its calls, counted from 1; None: its only one.
    """

    path: str
    given: bool
    call: int | None

    @classmethod
    def parse(cls, spot: str) -> Spot:
        path, given, call = re.fullmatch(r"(.*?)(@in)?(?:#([1-9][0-9]*))?", spot, re.DOTALL).groups()  # type: ignore[union-attr]
        return cls(path, bool(given), int(call) if call else None)

    def __str__(self) -> str:
        return self.path + "@in" * self.given + (f"#{self.call}" if self.call else "")


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
            ``path@in`` for its input (``fc@in`` is the penultimate vector; a ReLU's input is the pre-activation). Of a module
            that runs several times, ``#2`` behind that says which call, counted from 1: ``layer1.0.relu@in#2``. The input of
            a layer that works in place (``nn.ReLU(inplace=True)``) is copied before it is overwritten; no other is.
        prepare: applied to the pictures first: this net's own normalisation and size.
        order: where the classes of the data stand among the net's, (classes,), when it has them in another order.

    Raises:
        ModelError: a spot does not exist, does not run, runs more than once where no call is named, or is overwritten in
            place afterwards.
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
        self.modules_at = {spot: partial(find, net, Spot.parse(spot).path) for spot in self.spots}
        for locate in self.modules_at.values():
            locate()

    def forward(self, x: Tensor) -> Out:
        """What the net says about ``x``, (B, C, H, W): ``{"logits": (B, classes), spot: ...}``."""
        said: Out = {}
        version: dict[str, int] = {}

        ran: Counter[str] = Counter()

        def hear(spot: str, call: int | None, copy: bool, value: Any) -> None:
            ran[spot] += 1
            if call is None and spot in said:
                raise ModelError(
                    f"layer {spot!r} runs more than once in a forward pass",
                    hint=f"say which call, counted from 1: {spot}#1; or tap a layer that runs once",
                )
            if call in (None, ran[spot]):
                value = first_tensor(value, f"layer {spot!r}")
                said[spot] = value = value.clone() if copy else value
                version[spot] = value._version

        def listen(spot: str) -> RemovableHandle:
            module, (_, given, call) = self.modules_at[spot](), Spot.parse(spot)
            if given:
                copy = getattr(module, "inplace", False) is True
                return module.register_forward_pre_hook(lambda _, args: hear(spot, call, copy, args))
            return module.register_forward_hook(lambda _, args, output: hear(spot, call, False, output))

        if self.prepare is not None:
            x = self.prepare(x)
        hooks = [listen(spot) for spot in self.spots]
        try:
            logits = first_tensor(self.net(x), type(self.net).__name__)
        finally:
            for hook in hooks:
                hook.remove()
        for spot in self.spots:
            if spot not in said:
                often = f"ran {ran[spot]} times" if ran[spot] else "did not run"
                raise ModelError(f"layer {spot!r} {often} in the forward pass", hint="tap a layer that always runs")
            if said[spot]._version != version[spot]:
                raise ModelError(
                    f"what was heard at {spot!r} was overwritten by a later in-place layer (a ReLU with inplace=True?)",
                    hint="tap that layer instead (its input as PATH@in), or set its inplace to False",
                )
        said["logits"] = logits if self.order is None else logits[:, self.order]
        return said


class Frozen(nn.Module):
    """A net that only teaches.

    It goes to whatever device its owner goes to, but it has no parameters to optimize, no state to save and no training
    mode to fall into: it is held outside the module tree, where optimizers, checkpoints, DDP and ``train()`` do not look.
    It runs without autograd (not under ``inference_mode``: such tensors cannot be saved for a student's backward).

    Args:
        net: puts out a tensor, or tensors by name.
        home: a device where it stays, wherever its owner goes: what it is asked is brought there, what it says comes back.
    """

    net: nn.Module
    parts: list[nn.Module]

    def __init__(self, net: nn.Module, home: torch.device | None = None) -> None:
        super().__init__()
        object.__setattr__(self, "net", net.eval())
        object.__setattr__(self, "parts", list(net.modules()))
        self.home = home

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Frozen:
        self.net._apply(lambda t: self.brought(fn(t)))
        return self

    def brought(self, x: Tensor) -> Tensor:
        """A tensor, where the net is."""
        return x if self.home is None else x.to(self.home)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Any:
        if any(part.training for part in self.parts):  # its owner called train() on it, or on a part of it, since
            self.net.eval()
        if self.home is None:
            return self.net(x)
        said = self.net(x.to(self.home))
        return said.to(x.device) if isinstance(said, Tensor) else {spot: v.to(x.device) for spot, v in said.items()}
