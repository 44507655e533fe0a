"""The nets of a scheme under ``torch.compile``: proved equal to eager before a training, and measured where that is asked for."""

from __future__ import annotations

import copy
import inspect
import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from potstill.errors import MachineError
from potstill.proof import unlike, witness
from potstill.schemes.scheme import Scheme
from potstill.schemes.spot_adaptive import SpotAdaptive
from potstill.taps import Frozen, Spot, Tapped, find, first_tensor
from potstill.teacher import COMPILING, PAYS, human
from potstill.types import Out

SAVES = {("cpu", False): 0.05, ("cpu", True): 0.15}, 0.3
"""The share of a student's time that compiling saves, by device and bf16, and on others, by which it is decided whether to try:
0.02 and 0.11 for a channels-last resnet8x4 on a CPU. Whether it is kept is decided by what it then saves."""
TIMES = 3


class Compiled(Tapped):
    """A net that is run compiled, on pictures of one shape; says what :class:`potstill.taps.Tapped` says.

    Spots are heard: the hooks are there for each pass and are compiled with it. Random numbers are those of eager. Other
    shapes, such as the last, smaller batch of an epoch, are run as they are.

    Args:
        tapped: the net, which stays as it was given.
        shape: of the pictures, (B, C, H, W).
        backend: of ``torch.compile``; ``inductor`` uses graphs on CUDA, which save the launches.
    """

    def __init__(self, tapped: Tapped, shape: torch.Size, backend: str | Callable[..., Any] = "inductor") -> None:
        super().__init__(tapped.net, tapped.spots, tapped.prepare, tapped.order)
        self.shape, self.backend, self.training = shape, backend, tapped.training
        net, prepare, order, heard = self.net, self.prepare, self.order, dict[str, Tensor]()

        def after(spot: str) -> Callable[..., None]:
            return lambda module, args, output: heard.update({spot: first_tensor(output, spot)})

        def before(spot: str, overwritten: bool) -> Callable[..., None]:
            def hear(module: Any, args: Any) -> None:
                value = first_tensor(args, spot)
                heard[spot] = value.clone() if overwritten else value

            return hear

        def run(x: Tensor) -> Out:
            logits = first_tensor(net(x if prepare is None else prepare(x)), "the net")
            said = {**heard, "logits": logits if order is None else logits[:, order]}
            heard.clear()
            return said

        self.ears: list[tuple[Callable[..., Any], Callable[..., None]]] = []
        for spot in self.spots:
            path, given, _ = Spot.parse(spot)
            module = find(net, path)
            overwritten = getattr(module, "inplace", False) is True
            self.ears.append(
                (module.register_forward_pre_hook, before(spot, overwritten))
                if given
                else (module.register_forward_hook, after(spot))
            )
        options: dict[str, Any] | None = {"fallback_random": True} if backend == "inductor" else None
        if options and next(net.parameters()).device.type == "cuda":
            options["triton.cudagraphs"] = True
        # with a cache of its own: else the nets of eight trials would fill the one of this function, and the ninth run eagerly
        compiler: Any = torch.compile
        own = {"isolate_recompiles": True} if "isolate_recompiles" in inspect.signature(compiler).parameters else {}
        self.quick = compiler(run, dynamic=False, backend=backend, options=options, **own)

    def __deepcopy__(self, memo: dict[int, Any]) -> Compiled:
        """Compiled anew: what was compiled runs the net that it was made of."""
        net, prepare = copy.deepcopy(self.net, memo), copy.deepcopy(self.prepare, memo)
        return Compiled(Tapped(net, self.spots, prepare, self.order), self.shape, self.backend)

    def forward(self, x: Tensor) -> Out:
        if x.shape != self.shape:
            return super().forward(x)
        hooks = [register(hear) for register, hear in self.ears]
        try:
            said: Out = self.quick(x)
            return said
        finally:
            for hook in hooks:
                hook.remove()


def compile_nets(
    schemes: Iterable[Scheme | SpotAdaptive],
    x: Tensor,
    *,
    forwards: int | None = None,
    decided: dict[str, bool] | None = None,
    backend: str | Callable[..., Any] = "inductor",
) -> tuple[list[str], dict[str, bool]]:
    """Put compiled nets in the places of the nets of schemes, those that are proved to be equal to what they were.

    On the batch ``x`` the compiled net must say the same as the eager one, give every parameter the same gradient, and leave
    the same buffers (:func:`potstill.proof.unlike`). A net that fails, or that the compiler cannot do, stays as it is. A teacher
    that was made faster is left: there it was measured what pays.

    Args:
        schemes: on their device, in the mode and under the autocast in which they will run.
        x: a batch of pictures as they will come.
        forwards: how many batches are to come. Then a net is compiled where that would save more of their time than it takes,
            and kept where it does save. None: it is compiled.
        decided: what was decided when the run was started, by net and spots; it is done again without looking.
        backend: of ``torch.compile``.

    Returns:
        notices; and what was decided.

    Raises:
        MachineError: ``decided`` cannot be done here.
    """
    lines: list[str] = []
    new: dict[str, bool] = {}
    for scheme in schemes:
        if not isinstance(scheme, Scheme):
            lines.append("compile: spot-adaptive distillation runs its nets layer by layer, so they are not compiled")
            continue
        scheme.begin().train()
        for name in scheme.active:
            wrapped = scheme.nets[name]
            tapped, given = (wrapped.net, wrapped.brought(x)) if isinstance(wrapped, Frozen) else (wrapped, x)
            if type(tapped) is not Tapped:
                continue
            key = f"{name} at {', '.join(tapped.spots) or 'logits'}"
            if decided is None:
                made, line = _tried(tapped, given, isinstance(wrapped, Frozen), forwards, backend)
                lines.append(f"compile: {key}: {line}")
            else:
                made = Compiled(tapped, x.shape, backend) if decided.get(key) else None
                _again(made, given, not isinstance(wrapped, Frozen))
            new[key] = made is not None
            if made is not None:
                scheme.nets[name] = Frozen(made, wrapped.home) if isinstance(wrapped, Frozen) else made
    return lines, new


def _tried(
    tapped: Tapped, x: Tensor, frozen: bool, forwards: int | None, backend: str | Callable[..., Any]
) -> tuple[Compiled | None, str]:
    """The compiled net if it is to be used, and why (not)."""
    if any(Spot.parse(spot).call for spot in tapped.spots):
        return None, "as it is: a spot is one of several calls of a layer"
    if forwards is not None:
        spent = forwards * _timed([tapped], x, not frozen)[0]
        layers = sum(1 for m in tapped.net.modules() if not [*m.children()])
        cost = (1 if frozen else 2) * (COMPILING[0] + COMPILING[1] * layers)  # forward; forward and backward
        if spent * _saves(x) < cost:
            return None, f"as it is: {human(spent)} of work would not pay for some {cost:.0f} s of compiling"
    began = time.monotonic()
    made = Compiled(tapped, x.shape, backend)
    try:
        reason = unlike(tapped, made, x, learns=not frozen)
    except Exception as error:  # of the tracer or the compiler
        reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    if reason:
        return None, f"as it is: compiled, {reason}"
    took = time.monotonic() - began
    if forwards is not None:
        before, after = _timed([tapped, made], x, not frozen)
        if after > PAYS * before:
            return None, f"as it is: compiled no faster ({1e3 * after:.1f} ms, {1e3 * before:.1f} ms without)"
        return made, f"compiled in {took:.0f} s, {after / before:.2f} of its time, equal to eager"
    return made, f"compiled in {took:.0f} s, equal to eager"


def _saves(x: Tensor) -> float:
    known, other = SAVES
    return known.get((x.device.type, torch.is_autocast_enabled(x.device.type)), other)


def _again(made: Compiled | None, x: Tensor, learns: bool) -> None:
    try:
        _ = made and witness(made, x, learns)
    except Exception as error:  # of the tracer or the compiler
        raise MachineError(
            f"this run was started with compiled nets, and compiling fails here: {str(error).splitlines()[0]}",
            why="without it the run would not go on exactly",
            hint="go on with the machine and the versions that it was started with (run.json), or start it anew",
        ) from error


def _timed(nets: list[Tapped], x: Tensor, learns: bool) -> list[float]:
    """Seconds of a pass of each net: medians of interleaved ones after one to warm up; on a CPU of its time, which other work on
    the machine does not lengthen."""
    clock = time.process_time if x.device.type == "cpu" else time.perf_counter

    def once(net: Tapped) -> float:
        began = clock()
        witness(net, x, learns)
        if x.device.type == "cuda":
            torch.cuda.synchronize(x.device)
        return clock() - began

    took = [[once(net) for net in nets] for _ in range(TIMES + 1)][1:]
    return [statistics.median(each) for each in zip(*took, strict=True)]
