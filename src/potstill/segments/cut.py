"""Cutting a net at its spots into callable pieces.

No piece of the net is copied, traced or rewritten: a segment runs the net's own ``forward``. What lies before the segment is
not computed. Modules there are passed over; what the code between them does, it does to :class:`Earlier` tensors, which have
shapes and no values. At the cut the given value takes their place, and at the segment's end the pass stops. An earlier tensor
that reaches the end shows that something went round the cut (a skip connection): such a cut is refused, by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from potstill.errors import ModelError
from potstill.segments.earlier import Blank, Earlier, Run, mapped, with_first
from potstill.segments.modes import evaluating
from potstill.segments.trace import Trace
from potstill.taps import Spot, find, first_tensor

HINT = "cut at the end of a block, or losses.NAME.at=[student_spot, teacher_spot]"


class Done(BaseException):
    """The segment's end is reached. Not an Exception: a net's own ``except Exception`` must not catch it."""

    def __init__(self, value: Any) -> None:
        self.value = value


class Segments:
    """A net cut at its spots: ``segments[k](u)`` maps the value at spot k - 1 (k = 0: the pictures) to that at spot k.

    The last segment gives the logits. The pieces are the live net: they share its parameters, mode and hooks. Composed, they
    equal the net bit for bit: that is tried on ``x`` when they are made.

    Args:
        net: maps (B, ...) to logits.
        spots: where to cut, in the order in which the net gets there (see :class:`potstill.taps.Tapped` for how they are
            written). The same spot twice has an empty segment between.
        x: a few samples as the net reads them (normalised), (B, ...); two or more.

    Raises:
        ModelError: a spot does not exist, does not run once, comes out of order, or is not all that goes on from there: the
            first operation that reads something else is named.
    """

    def __init__(self, net: nn.Module, spots: Iterable[str], x: Tensor) -> None:
        self.net, self.spots = net, tuple(spots)
        trace = Trace(net, x)
        for a, b in pairwise(self.spots):
            if trace.time(b) < trace.time(a):
                raise ModelError(
                    f"{type(net).__name__} gets to {b!r} before {a!r}", hint="spots in the order of the net"
                )
        self.picture = trace.blank(x)
        self.over = {s: [(c.module, c.path, c.output) for c in trace.over(s)] for s in self.spots}
        self.output = {s: trace.call(s).output for s in self.spots}
        self.nth = [self._nth(trace, k) for k in range(len(self.spots))]
        self._try(x, trace.logits)

    def __len__(self) -> int:
        return len(self.spots) + 1

    def __getitem__(self, k: int) -> Callable[[Tensor], Tensor]:
        return partial(self.run, range(len(self))[k])

    def __iter__(self) -> Iterator[Callable[[Tensor], Tensor]]:
        return (self[k] for k in range(len(self)))

    def run(self, k: int, u: Tensor, state: Run | None = None) -> Tensor:
        """Segment ``k`` of the value ``u``."""
        start = self.spots[k - 1] if k else None
        end = self.spots[k] if k < len(self.spots) else None
        if start == end and start is not None:
            return u
        state, picture = state or Run(), u
        with _patched() as patch:
            if end is not None:
                patch(find(self.net, Spot.parse(end).path), _stop(self.nth[k], Spot.parse(end).given))
            if start is None:
                state.passed = True
            else:
                picture = self._cut(start, u, state, patch)
            try:
                value = self.net(picture)
            except Done as done:
                value = done.value
        return first_tensor(value, f"layer {end!r}" if end else type(self.net).__name__)

    def _cut(self, spot: str, u: Tensor, state: Run, patch: Patch) -> Tensor:
        """Arrange that the net passes over all before the spot and goes on with ``u`` there; what to call it with."""
        path, given, _ = Spot.parse(spot)
        target = find(self.net, path)

        def earlier(made: str, blank: Blank) -> Earlier:
            return Earlier(blank.of(len(u)), blank.dtype, u.device, state, made)

        def replaced(forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
            state.passed = True
            if given:
                own = u.clone() if getattr(target, "inplace", False) is True else u  # as Tapped hears it
                return forward(own, *args[1:], **kwargs)
            return with_first(self.output[spot], u, partial(earlier, f"what {spot!r} puts out beside its first tensor"))

        def passing(left: Iterator[tuple[str, Any]], forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            if state.passed:
                return forward(*args, **kwargs)
            if (one := next(left, None)) is not None:
                return mapped(partial(earlier, f"what {one[0]!r} puts out"), one[1])
            return replaced(forward, args, kwargs) if left is last else forward(*args, **kwargs)

        queues: dict[nn.Module, list[tuple[str, Any]]] = {target: []}
        for module, name, output in self.over[spot]:
            queues.setdefault(module, []).append((name, output))
        iterators = {module: iter(queue) for module, queue in queues.items()}
        last = iterators[target]
        for module, left in iterators.items():
            patch(module, partial(passing, left))
        return earlier("the picture", self.picture)

    def _nth(self, trace: Trace, k: int) -> int:
        """How many runs of its module segment ``k`` sees up to its end, the end included."""
        end = trace.call(self.spots[k])
        calls = trace.of(end.module)
        if k:
            start, time = trace.call(self.spots[k - 1]), trace.time(self.spots[k - 1])
            calls = [c for c in calls if c.begin >= time or c in start.around()]
        return calls.index(end) + 1 if end in calls else 1

    @torch.no_grad()
    def _try(self, x: Tensor, logits: Tensor) -> None:
        """Run the segments one after the other and compare with the net."""
        u, name = x, type(self.net).__name__
        with evaluating(self.net), _listening(self.net) as inside:
            for k in range(len(self)):
                if k and self.spots[k - 1] == self.spots[min(k, len(self.spots) - 1)] and k < len(self.spots):
                    continue
                inside.clear()
                start, state, version, given = (
                    self.spots[k - 1] if k else "the picture",
                    Run(inside=inside),
                    u._version,
                    u,
                )
                refused = partial(ModelError, where=f"{name} cut at {start!r}", hint=HINT)
                try:
                    u = self.run(k, given, state)
                except (RuntimeError, TypeError, ValueError, AttributeError, ModelError) as error:
                    text = error.what if isinstance(error, ModelError) else (str(error).splitlines() or ["fails"])[0]
                    raise refused(state.around or text) from error
                if isinstance(u, Earlier) or not state.passed:
                    raise refused(
                        state.around or f"the net goes on from {getattr(u, 'made', 'the picture')}, not from there",
                        why="a segment is given one value; what goes round it, such as a skip connection, is not known",
                    )
                if given._version != version:
                    raise refused("the next layer overwrites this value in place")
            if not torch.equal(u, logits):
                raise ModelError(
                    f"{name} cut at {', '.join(self.spots)} gives other logits than uncut",
                    why="it keeps something outside its modules' outputs, or is random in eval mode",
                    hint="other spots",
                )


Patch = Callable[[nn.Module, Callable[..., Any]], None]


@contextmanager
def _patched() -> Iterator[Patch]:
    """``patch(module, f)`` makes ``module.forward(*args)`` be ``f(forward, *args)`` until the end of the block."""
    before: list[tuple[nn.Module, Any]] = []

    def patch(module: nn.Module, by: Callable[..., Any]) -> None:
        before.append((module, module.__dict__.get("forward")))
        module.__dict__["forward"] = partial(by, module.forward)

    try:
        yield patch
    finally:
        for module, own in reversed(before):
            if own is None:
                del module.__dict__["forward"]
            else:
                module.__dict__["forward"] = own


def _stop(nth: int, given: bool) -> Callable[..., Any]:
    """Ends the pass at the module's ``nth`` run: with its arguments if ``given``, else with its output."""
    runs = iter(range(1, nth + 1))

    def stop(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        here = next(runs, 0) == nth
        if here and given:
            raise Done(args)
        output = forward(*args, **kwargs)
        if here:
            raise Done(output)
        return output

    return stop


@contextmanager
def _listening(net: nn.Module) -> Iterator[list[str]]:
    """The paths of the modules that are running, outermost first. A pass that breaks off leaves its own there."""
    inside: list[str] = []

    def ahead(path: str, module: nn.Module, args: Any) -> None:
        inside.append(path)

    def after(module: nn.Module, args: Any, output: Any) -> None:
        inside.pop()

    hooks = [m.register_forward_pre_hook(partial(ahead, path)) for path, m in net.named_modules()]
    hooks += [m.register_forward_hook(after) for m in net.modules()]
    try:
        yield inside
    finally:
        for hook in hooks:
            hook.remove()
