"""Tensors from before a cut: shapes without values, so that what a net does before the cut costs nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from potstill.errors import ModelError


@dataclass(frozen=True)
class Blank:
    """A tensor of the dry pass without its values; ``batch`` says how many samples it was of."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    batch: int

    def of(self, size: int) -> tuple[int, ...]:
        """Its shape in a batch of ``size``; windows and the like, several a sample, are counted along."""
        if not self.shape or self.shape[0] % self.batch:
            return self.shape
        return (self.shape[0] // self.batch * size, *self.shape[1:])


@dataclass
class Run:
    """The state of one segment's run.

    Attributes:
        passed: whether the cut is behind us.
        inside: the paths of the modules that are running, where somebody keeps them.
        around: the first operation behind the cut that read something from before it, in words.
    """

    passed: bool = False
    inside: list[str] = field(default_factory=list)
    around: str | None = None


class Earlier(Tensor):
    """A tensor from before the cut: a shape, no values. What is computed with it is earlier, too.

    Attributes:
        run: in which it lives.
        made: what it is, in words.
    """

    run: Run
    made: str
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, shape: Sequence[int], dtype: torch.dtype, device: torch.device, run: Run, made: str) -> Earlier:
        self: Earlier = Tensor._make_wrapper_subclass(cls, shape, dtype=dtype, device=device)
        self.run, self.made = run, made
        return self

    def __init__(self, *args: Any) -> None:
        """All is done in ``__new__``."""

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        found: list[Earlier] = []

        def shaped(x: Any) -> Any:
            if isinstance(x, Earlier):
                found.append(x)
            return torch.empty(x.shape, dtype=x.dtype, device="meta") if isinstance(x, Tensor) else x

        meta_args, meta_kwargs = tree_map(shaped, args), tree_map(shaped, kwargs or {})
        if "device" in meta_kwargs:
            meta_kwargs["device"] = torch.device("meta")
        one, what = found[0], func.overloadpacket.__name__
        if one.run.passed and one.run.around is None:
            place = f" in {one.run.inside[-1]!r}" if any(one.run.inside) else ""
            one.run.around = f"`{what}`{place} reads {one.made}, from before the cut"
        if func._schema.is_mutable and not isinstance(args[0], Earlier):
            raise ModelError(f"`{what}` writes {one.made}, from before the cut, into another tensor in place")
        try:
            result = func(*meta_args, **meta_kwargs)
        except (NotImplementedError, RuntimeError) as error:
            if "meta" in str(error) or func is torch.ops.aten._local_scalar_dense.default:
                raise ModelError(f"`{what}` asks for the values of {one.made}, which is before the cut") from error
            raise

        def wrapped(x: Any) -> Any:
            return Earlier(x.shape, x.dtype, one.device, one.run, one.made) if isinstance(x, Tensor) else x

        return args[0] if func._schema.is_mutable else tree_map(wrapped, result)


def mapped(f: Callable[[Any], Any], value: Any) -> Any:
    """``f`` of every tensor (or blank) in what a module puts out: tuples, lists, mappings, the dicts of ``transformers``."""
    if isinstance(value, Tensor | Blank):
        return f(value)
    if isinstance(value, Mapping):
        return _like(value, {k: mapped(f, v) for k, v in value.items()})
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(mapped(f, v) for v in value))
    if isinstance(value, list | tuple):
        return type(value)(mapped(f, v) for v in value)
    return value


def with_first(output: Any, u: Tensor, f: Callable[[Any], Any]) -> Any:
    """What a module put out, with ``u`` where :func:`potstill.taps.first_tensor` looks, and ``f`` of the rest."""
    if isinstance(output, Blank):
        return u
    if isinstance(output, Mapping):
        first = "logits" if "logits" in output else next(iter(output))
        return _like(output, {k: u if k == first else mapped(f, v) for k, v in output.items()})
    values = [u if i == 0 else mapped(f, v) for i, v in enumerate(output)]
    return type(output)(*values) if hasattr(output, "_fields") else type(output)(values)


def _like(mapping: Mapping[Any, Any], content: dict[Any, Any]) -> Any:
    return content if type(mapping) is dict else type(mapping)(**content)
