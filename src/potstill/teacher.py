"""The frozen teacher at its own speed: folded, channels-last, compiled, bf16; each where it is measured to pay."""

from __future__ import annotations

import copy
import inspect
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from potstill.cache.codec import divergence
from potstill.errors import MachineError
from potstill.folding import NORMS, fold
from potstill.taps import Tapped, find, first_tensor
from potstill.types import Out

Precision = Literal["exact", "equal", "fast"]
FOLDED, LAST, BF16, COMPILED = "batch norms folded", "channels-last", "bf16", "compiled"
ROUNDING = 1e-4
"""Relative L2 distance to the plain net, at every spot, up to which a float32 variant counts as equal. 7e-7 where measured
(resnet32x4); a net that turns rounding into more is left as it is."""
BOUND = 1e-4
"""KL divergence (T = 4) of the logits of a bf16 teacher to the plain one's. 8e-6 on a trained ResNet-20."""
FEATURES = 3e-2
"""Relative L2 distance of a bf16 teacher's features to the plain one's. 7e-3 where measured."""
COMPILING = 30.0, 0.3
"""Seconds that ``torch.compile`` takes: for any net, and more for each layer (resnet8x4 with 29: 34; resnet32x4 with 101: 41; up
to 110 beside other work)."""
SAVES = {False: 0.15, True: 0.45}
"""The share of the time that it saves, in float32 and in bf16, by which it is decided whether to try (resnet32x4; perhaps
more). Whether it is kept is decided by what it then saves."""
TIMED = 16
"""Pictures with which variants are timed on a CPU."""
PAYS = 0.97
"""A variant is kept when it takes at most this share of the best one before it: less is noise."""


class Swift(Tapped):
    """A teacher's copy that is run as it is fastest. Says what :class:`potstill.taps.Tapped` says, in float32.

    Attributes:
        last: whether pictures are brought to channels-last.
        dtype: of autocast; None: none, even inside one.
        shape: pictures of this shape are given to ``quick``, the compiled net; a smaller batch is not worth compiling for.
    """

    last = False
    dtype: torch.dtype | None = None
    shape: torch.Size | None = None
    quick: Callable[[Tensor], Out] | None = None

    def forward(self, x: Tensor) -> Out:
        if self.last:
            x = x.contiguous(memory_format=torch.channels_last)
        with torch.autocast(x.device.type, self.dtype, enabled=self.dtype is not None):  # whatever the run's own is
            said = self.quick(x) if self.quick is not None and x.shape == self.shape else super().forward(x)
        return {k: v.float() if v.dtype == self.dtype else v for k, v in said.items()} if self.dtype else said


@dataclass
class Sped:
    """A teacher made faster.

    Attributes:
        net: says what the teacher says; the teacher itself where nothing made it faster.
        how: what was done to it, in words; empty: nothing.
        seconds: CPU seconds (on a CPU; else seconds) of a forward pass by variant, medians of interleaved passes.
        kl: mean KL divergence (T = 4) of its logits to the teacher's; 0 where they are no class scores.
        notices: what was tried or left out, and why.
    """

    net: Tapped
    how: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    kl: float = 0.0
    notices: list[str] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        """Time of a pass, of the plain teacher's; 1 where nothing was measured."""
        return self.seconds[self.how[-1]] / self.seconds["plain"] if self.how and self.seconds else 1.0


@torch.no_grad()
def speed_up(
    teacher: Tapped,
    x: Tensor,
    *,
    precision: Precision = "equal",
    forwards: int = 0,
    bound: float = BOUND,
    repeats: int = 3,
    backend: str = "inductor",
) -> Sped:
    """The fastest equivalent of a frozen teacher on batches like ``x``, measured.

    The teacher is not changed: all is done to a copy, whose module paths stay, so that spots are heard as before. Inside
    autocast the plain net is what that makes of it, and each variant is held to the bounds of bf16 against float32.

    Args:
        teacher: the net with its spots, on the device where it will run.
        x: a batch of real pictures, (B, C, H, W), in [0, 1], of the size that is to come.
        precision: ``exact``: the teacher itself, to the last bit. ``equal``: equal but for rounding in float32 (folded batch
            norms, channels-last, compiled). ``fast``: bf16 as well, where the processor has it and the logits stay within
            ``bound``.
        forwards: how many batches are to come; ``torch.compile`` is tried where it would save more of their time than it takes.
        bound: the largest mean KL divergence (T = 4) of bf16 logits to the plain ones.
        repeats: measurements of each variant.
        backend: of ``torch.compile``.

    Returns:
        the fastest of all variants, among which is the plain one.
    """
    if precision == "exact":
        return Sped(teacher, notices=["exact: the teacher runs as it was given"])
    teacher.eval()
    sped, change_by = Sped(teacher), _changes(x, backend)
    mixed = torch.is_autocast_enabled(x.device.type)
    with torch.autocast(x.device.type, enabled=False):
        truth = teacher(x)
    near = partial(_near, bound=bound)

    def attempt(name: str, close: Callable[[Out, Out], str | None], part: int = TIMED) -> None:
        """Change a copy of the best net so far; keep it if it says the same, faster."""
        made = _copied(sped.net, x)
        try:
            reason = change_by[name](made) or close(truth, made(x))
        except Exception as error:  # of the net's own code, the tracer or the compiler: then without this step
            reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        if reason is None:
            before, after = _timed([sped.net, made], x, part, repeats)
            sped.seconds.setdefault("plain", before)
            sped.seconds[name] = sped.seconds[sped.how[-1] if sped.how else "plain"] * after / before
            if after <= PAYS * before:
                sped.net = made
                sped.how.append(name)
            else:
                sped.notices.append(f"{name}: no faster ({1e3 * after:.1f} ms, {1e3 * before:.1f} ms without)")
        else:
            sped.notices.append(f"{name}: {reason}")

    same = near if mixed else _rounding
    if _foldable(teacher.net):
        attempt(FOLDED, same)
    if any(p.ndim == 4 for p in teacher.net.parameters()):
        attempt(LAST, same)
    if precision == "fast" and not mixed:
        if has_bf16(x.device):
            attempt(BF16, near)
        else:
            sped.notices.append("bf16: this processor has no instructions for it")
    spent = forwards * (sped.seconds[sped.how[-1]] if sped.how else _timed([teacher], x, TIMED, 1)[0])
    cost = COMPILING[0] + COMPILING[1] * sum(1 for m in teacher.net.modules() if not [*m.children()])
    if spent * SAVES[mixed or BF16 in sped.how] >= cost:
        began = time.monotonic()
        attempt(COMPILED, near if BF16 in sped.how else same, part=len(x))
        cost = time.monotonic() - began
        saved = spent - forwards * sped.seconds[COMPILED] if COMPILED in sped.how else 0.0
        sped.notices.append(f"compiling took {cost:.0f} s and saves {human(saved)} of {human(spent)} of teaching")
    elif forwards:
        sped.notices.append(
            f"not compiled: {human(spent)} of teaching would not pay for some {cost:.0f} s of compiling"
        )
    if sped.how and truth["logits"].ndim == 2:
        sped.kl = divergence(truth["logits"], sped.net(x)["logits"])
    return sped


@torch.no_grad()
def replay(teacher: Tapped, how: Sequence[str], x: Tensor, backend: str = "inductor") -> Tapped:
    """The teacher changed as it was before (:attr:`Sped.how`), without measuring: a run that goes on must not choose anew, for
    the choice decides over the last bits of what is said.

    Raises:
        MachineError: that is not possible here.
    """
    if not how:
        return teacher
    made = _copied(teacher.eval(), x)
    for name in how:
        try:
            reason = _changes(x, backend)[name](made)
        except Exception as error:  # of the net's own code, the tracer or the compiler
            reason = f"{type(error).__name__}: {error}"
        if reason:
            raise MachineError(
                f"the teacher of this run was made faster ({', '.join(how)}), and that fails here: {reason}",
                why="without it the run would not go on exactly",
                hint="go on with the machine and the versions that it was started with (run.json), or start it anew",
            )
    return made


def human(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 600 else f"{seconds / 60:.0f} min"


def has_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bf16 numbers itself."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    able: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return device.type == "cpu" and bool(able.get("avx512_bf16") or able.get("amx_bf16") or able.get("bf16"))


def _foldable(net: nn.Module) -> bool:
    return any(type(m) in NORMS for m in net.modules())


def _changes(x: Tensor, backend: str) -> dict[str, Callable[[Swift], str | None]]:
    """What can be done to a copy in place, by name, in this order; each says why it was not done, or None."""
    return {FOLDED: fold, LAST: _channels_last, BF16: _bf16, COMPILED: partial(_compile, x.shape, backend)}


def _copied(tapped: Tapped, x: Tensor) -> Swift:
    made = Swift(copy.deepcopy(tapped.net), tapped.spots, copy.deepcopy(tapped.prepare), tapped.order).eval()
    if isinstance(tapped, Swift):
        made.last, made.dtype = tapped.last, tapped.dtype
    elif torch.is_autocast_enabled(x.device.type):
        made.dtype = torch.get_autocast_dtype(x.device.type)
    return made


def _channels_last(made: Swift) -> str | None:
    made.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    made.last = True
    return None


def _bf16(made: Swift) -> str | None:
    made.dtype = torch.bfloat16
    return None


def _compile(shape: torch.Size, backend: str, made: Swift) -> str | None:
    """Compile with hooks that stay (it is a copy): those that come and go with each pass would be compiled each time."""
    heard: Out = {}

    def after(spot: str, module: nn.Module, args: Any, output: Any) -> None:
        heard[spot] = first_tensor(output, spot)

    def before(spot: str, module: nn.Module, args: Any) -> None:
        value = first_tensor(args, spot)
        heard[spot] = value.clone() if getattr(module, "inplace", False) is True else value

    if any("#" in spot for spot in made.spots):
        return "a spot is one of several calls of a layer"
    net, prepare, order = made.net, made.prepare, made.order
    for spot in made.spots:
        module = find(net, spot.removesuffix("@in"))
        if spot.endswith("@in"):
            module.register_forward_pre_hook(partial(before, spot))
        else:
            module.register_forward_hook(partial(after, spot))

    def run(x: Tensor) -> Out:
        heard.clear()
        logits = first_tensor(net(x if prepare is None else prepare(x)), "the net")
        said = {**heard, "logits": logits if order is None else logits[:, order]}
        heard.clear()
        return said

    options: dict[str, Any] | None = {"freezing": True} if backend == "inductor" else None
    # with a cache of its own: else a second teacher, which is heard elsewhere, would be given what was compiled for the first
    compiler: Any = torch.compile
    own = {"isolate_recompiles": True} if "isolate_recompiles" in inspect.signature(compiler).parameters else {}
    made.quick, made.shape = compiler(run, dynamic=False, backend=backend, options=options, **own), shape
    return None


def _rounding(truth: Out, said: Out) -> str | None:
    return _far(truth, said, ROUNDING)


def _near(truth: Out, said: Out, bound: float) -> str | None:
    lost = divergence(truth["logits"], said["logits"]) if truth["logits"].ndim == 2 else 0.0
    if not lost <= bound:
        return f"its logits are too far from float32: KL(T=4) {lost:.1e}, allowed are {bound:.0e}"
    return _far(truth, {**said, "logits": truth["logits"]}, FEATURES)


def _far(truth: Out, said: Out, bound: float) -> str | None:
    for spot, t in truth.items():
        far = float((t.float() - said[spot].float()).norm() / t.float().norm().clamp_min(1e-12))
        if not far <= bound:
            return f"at {spot!r} it is {far:.1e} (relative) from the plain net, allowed are {bound:.0e}"
    return None


def _timed(nets: list[Tapped], x: Tensor, part: int, repeats: int) -> list[float]:
    """Seconds that each net takes for ``x``: medians of interleaved passes after one to warm up. On a CPU of CPU time, which
    other work on the machine does not lengthen, and with the first ``part`` pictures, for it has no use for large batches."""
    cpu = x.device.type == "cpu"
    clock, few = (time.process_time, x[:part]) if cpu else (time.perf_counter, x)

    def once(net: Tapped) -> float:
        began = clock()
        net(few)
        if x.device.type == "cuda":
            torch.cuda.synchronize(x.device)
        return (clock() - began) * len(x) / len(few)

    for net in nets:
        once(net)
    took = [[once(net) for net in nets] for _ in range(repeats)]
    return [statistics.median(each) for each in zip(*took, strict=True)]
