"""Who called whom in one pass of a net."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from potstill.errors import ModelError
from potstill.segments.earlier import Blank, mapped
from potstill.segments.modes import evaluating
from potstill.taps import Spot, find, first_tensor


@dataclass(eq=False)
class Call:
    """One call of a module.

    Attributes:
        path, module: whose.
        parent: the call that made it; None for the net's own.
        begin, end: when it began and ended, in events of the pass.
        given, output: its first argument; what it put out. Tensors as :class:`Blank`.
    """

    path: str
    module: nn.Module
    parent: Call | None
    begin: int
    end: int = -1
    given: Any = None
    output: Any = None

    def around(self) -> list[Call]:
        """The calls that are not over when it begins: its maker, the maker's maker ..."""
        return [] if self.parent is None else [self.parent, *self.parent.around()]


class Trace:
    """Every call of every module in one pass of ``net``, in eval mode; the net is left as it was.

    Args:
        x: what the net reads, (B, ...); two samples or more.

    Attributes:
        calls: in the order in which they ended.
        logits: of ``x``.
    """

    def __init__(self, net: nn.Module, x: Tensor) -> None:
        self.net, self.batch = net, len(x)
        self.calls: list[Call] = []
        stack: list[Call] = []
        clock = iter(range(1 << 62))

        def ahead(path: str, module: nn.Module, args: Any) -> None:
            given = mapped(self.blank, args[0]) if args else None
            stack.append(Call(path, module, stack[-1] if stack else None, next(clock), given=given))

        def after(module: nn.Module, args: Any, output: Any) -> None:
            call = stack.pop()
            call.end, call.output = next(clock), mapped(self.blank, output)
            self.calls.append(call)

        hooks = [m.register_forward_pre_hook(partial(ahead, path)) for path, m in net.named_modules()]
        hooks += [m.register_forward_hook(after) for m in net.modules()]
        try:
            with evaluating(net), torch.no_grad():
                self.logits = first_tensor(net(x), type(net).__name__)
        finally:
            for hook in hooks:
                hook.remove()

    def blank(self, x: Tensor) -> Blank:
        return Blank(tuple(x.shape), x.dtype, self.batch)

    def of(self, module: nn.Module) -> list[Call]:
        """The calls of a module in the order in which they began."""
        return sorted((c for c in self.calls if c.module is module), key=lambda c: c.begin)

    def call(self, spot: str) -> Call:
        """The call that a spot means.

        Raises:
            ModelError: there is none, or several and the spot does not say which.
        """
        path, _, nth = Spot.parse(spot)
        calls = self.of(find(self.net, path))
        if len(calls) < (nth or 1) or (nth is None and len(calls) > 1):
            raise ModelError(
                f"layer {spot!r} ran {len(calls)} times in a pass", hint="cut where a layer runs once, or say PATH#2"
            )
        return calls[(nth or 1) - 1]

    def time(self, spot: str) -> int:
        """When the value at the spot is there."""
        call = self.call(spot)
        return call.begin if Spot.parse(spot).given else call.end

    def over(self, spot: str) -> list[Call]:
        """What is passed over on the way to the spot: calls that are over by then, made by calls that are not."""
        call, time = self.call(spot), self.time(spot)
        open_calls = call.around()
        return sorted((c for c in self.calls if c.end < time and c.parent in open_calls), key=lambda c: c.begin)

    def penultimate(self) -> str | None:
        """The spot of the vector that the last linear layer reads, such as ``fc@in``; None where there is none."""
        for call in reversed(self.calls):
            if isinstance(call.module, nn.Linear) and call.output.shape == tuple(self.logits.shape):
                vector = isinstance(call.given, Blank) and len(call.given.shape) == 2
                return f"{call.path}@in" if vector and len(self.of(call.module)) == 1 else None
        return None
