"""What was cut out of a net after it was built: a record of plain numbers, from which the same net is built again."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from potstill.errors import ModelError

SIZED: dict[type[nn.Module], tuple[str, ...]] = {
    _ConvNd: ("in_channels", "out_channels", "groups"),
    nn.Linear: ("in_features", "out_features"),
    _NormBase: ("num_features",),
    nn.GroupNorm: ("num_channels",),
    nn.PReLU: ("num_parameters",),
}
"""The layers whose size can change, and the attributes that say it."""

Size = int | list[int]


@dataclass(frozen=True)
class Surgery:
    """How a net differs in shape from what its source builds. Nothing in it is code; sizes only ever shrink.

    Attributes:
        factors: layers that became a chain of thinner ones, by their path, with the ranks: ``[r]`` for a Linear, or for a
            convolution to r channels and a 1x1 after it; ``[r_in, r_out]`` for a convolution between two 1x1 (Tucker-2).
        sizes: layers with fewer channels than they were built with, by their path (after the factorisation), with the
            attributes that say so; for parameters that a module holds itself, their shapes.
        zeros: parameters whose zeros stay zero in training.
    """

    factors: Mapping[str, list[int]] = field(default_factory=dict)
    sizes: Mapping[str, Mapping[str, Size]] = field(default_factory=dict)
    zeros: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.factors or self.sizes or self.zeros)

    @property
    def words(self) -> list[str]:
        """What was done, for names of nets."""
        done = {"factorised": self.factors, "pruned": self.sizes, "sparse": self.zeros}
        return [word for word, what in done.items() if what]

    def to_json(self) -> dict[str, Any]:
        return {
            "factors": dict(self.factors),
            "sizes": {path: dict(size) for path, size in self.sizes.items()},
            "zeros": list(self.zeros),
        }

    @classmethod
    def from_json(cls, value: Any) -> Surgery:
        """The record in a student.json.

        Raises:
            ModelError: it is none.
        """
        parts = value if isinstance(value, dict) and value.keys() == {"factors", "sizes", "zeros"} else None
        whole = parts is not None and isinstance(parts["factors"], dict) and isinstance(parts["sizes"], dict)
        if (
            not whole
            or parts is None
            or not all(_numbers(r) and len(r) in (1, 2) for r in parts["factors"].values())
            or not all(isinstance(s, dict) for s in parts["sizes"].values())
            or not all(_natural(v) or _numbers(v) for s in parts["sizes"].values() for v in s.values())
            or not (isinstance(parts["zeros"], list) and all(isinstance(z, str) for z in parts["zeros"]))
        ):
            raise ModelError("its surgery is damaged: expected factors, sizes and zeros", hint="copy it again")
        return cls(parts["factors"], parts["sizes"], tuple(parts["zeros"]))

    def operate(self, module: nn.Module) -> None:
        """Give a freshly built net its recorded shape, in place; its weights are loaded afterwards.

        Raises:
            ModelError: the record does not fit the net: no such layer, or a size that is larger than what was built.
        """
        for path, ranks in self.factors.items():
            replace(module, path, factorised(_at(module, path), ranks, path))
        for path, size in self.sizes.items():
            resize(_at(module, path), size, path)

    def hold_zeros(self, module: nn.Module) -> None:
        """Let the zeros of sparse parameters stay: their gradients are zero, whatever optimizer steps.

        The hooks belong to these very parameters: a copy of the module has none.
        """
        for name in self.zeros:
            owner, _, leaf = name.rpartition(".")
            parameter = getattr(_at(module, owner), leaf, None)
            if not isinstance(parameter, nn.Parameter):
                raise ModelError(f"its surgery holds zeros of {name}, which is no parameter of {type(module).__name__}")
            parameter.register_hook(_Keep(parameter))


def surgery_of(module: nn.Module, before: Mapping[str, Mapping[str, Size]], earlier: Surgery | None) -> Surgery:
    """The record of a net after its layers were resized.

    Args:
        module: the net now.
        before: its :func:`sizes` before that.
        earlier: what its record was before that; ``before`` knows only of what that one made.
    """
    earlier, now = earlier or Surgery(), sizes(module)
    changed = {path: size for path, size in now.items() if size != before.get(path) or path in earlier.sizes}
    return Surgery(earlier.factors, changed, earlier.zeros)


def sizes(module: nn.Module) -> dict[str, dict[str, Size]]:
    """The size of every layer that has one, and the shapes of parameters that other modules hold themselves."""
    found: dict[str, dict[str, Size]] = {}
    for path, layer in module.named_modules():
        names = attributes(layer)
        if names:
            found[path] = {name: int(getattr(layer, name)) for name in names}
        elif own := {name: list(p.shape) for name, p in layer.named_parameters(recurse=False)}:
            found[path] = {**own}
    return found


def attributes(layer: nn.Module) -> tuple[str, ...]:
    """The attributes that say the size of a layer; none for a module of another kind."""
    return next((names for cls, names in SIZED.items() if isinstance(layer, cls)), ())


def shapes(layer: nn.Module) -> dict[str, tuple[int, ...]]:
    """The shapes that a layer's tensors have by its attributes."""
    match layer:
        case _ConvNd():
            first, second = layer.out_channels, layer.in_channels
            if layer.transposed:
                first, second = second, first
            return {"weight": (first, second // layer.groups, *layer.kernel_size), "bias": (layer.out_channels,)}
        case nn.Linear():
            return {"weight": (layer.out_features, layer.in_features), "bias": (layer.out_features,)}
        case _NormBase():
            return dict.fromkeys(("weight", "bias", "running_mean", "running_var"), (layer.num_features,))
        case nn.GroupNorm():
            return dict.fromkeys(("weight", "bias"), (layer.num_channels,))
        case nn.PReLU():
            return {"weight": (layer.num_parameters,)}
    return {}


def resize(layer: nn.Module, size: Mapping[str, Size], path: str) -> None:
    """Give a layer fewer channels; the values of its tensors are not defined until they are loaded."""
    names = attributes(layer) or tuple(n for n, _ in layer.named_parameters(recurse=False))
    for name, value in size.items():
        now = getattr(layer, name) if name in names else None
        old = list(now.shape) if isinstance(now, Tensor) else now
        pairs = zip(_list(value), _list(old), strict=False)
        if old is None or len(_list(value)) != len(_list(old)) or not all(0 < a <= b for a, b in pairs):
            raise ModelError(
                f"its surgery does not fit: {name} of {path or 'the net'} should become {value}, it is {old}",
                hint="copy student.json and student.safetensors again, both from the same folder",
            )
    if not attributes(layer):
        for name, value in size.items():
            _renew(layer, name, tuple(_list(value)))
        return
    for name, value in size.items():
        setattr(layer, name, value)
    if isinstance(layer, _ConvNd) and (layer.in_channels % layer.groups or layer.out_channels % layer.groups):
        raise ModelError(f"its surgery does not fit: {path} cannot have {layer.groups} groups")
    for name, shape in shapes(layer).items():
        _renew(layer, name, shape)


def factorised(layer: nn.Module, ranks: list[int], path: str) -> nn.Sequential:
    """A chain of thinner layers in the place of one, without values; see :class:`Surgery`.

    Raises:
        ModelError: the layer cannot be factorised so.
    """
    weight = getattr(layer, "weight", None)
    place = {"device": weight.device, "dtype": weight.dtype} if isinstance(weight, Tensor) else {}
    make = nn.utils.skip_init
    if isinstance(layer, nn.Linear) and len(ranks) == 1 and 0 < ranks[0] <= min(layer.weight.shape):
        (r,) = ranks
        return nn.Sequential(
            make(nn.Linear, layer.in_features, r, bias=False, **place),
            make(nn.Linear, r, layer.out_features, bias=layer.bias is not None, **place),
        )
    if isinstance(layer, nn.Conv2d) and layer.groups == 1:
        i, o, k = layer.in_channels, layer.out_channels, layer.kernel_size
        most = (min(o, i * math.prod(k)),) if len(ranks) == 1 else (i, o)
        if all(0 < r <= m for r, m in zip(ranks, most, strict=True)):
            first = [] if len(ranks) == 1 else [make(nn.Conv2d, i, ranks[0], 1, bias=False, **place)]
            middle = make(
                nn.Conv2d,
                ranks[0] if first else i,
                ranks[-1],
                k,
                stride=layer.stride,
                padding=layer.padding,
                dilation=layer.dilation,
                padding_mode=layer.padding_mode,
                bias=False,
                **place,
            )
            return nn.Sequential(*first, middle, make(nn.Conv2d, ranks[-1], o, 1, bias=layer.bias is not None, **place))
    raise ModelError(f"its surgery does not fit: {path}, a {type(layer).__name__}, cannot have ranks {ranks}")


def replace(module: nn.Module, path: str, by: nn.Module) -> None:
    """Put another module in the place of the one at ``path``."""
    owner, _, leaf = path.rpartition(".")
    setattr(_at(module, owner), leaf, by)


class _Keep:
    """Zero in a gradient where the weights are zero."""

    def __init__(self, parameter: Tensor) -> None:
        self.kept = parameter.detach() != 0

    def __call__(self, gradient: Tensor) -> Tensor:
        self.kept = self.kept.to(gradient.device)  # moves once: hooks outlive module.to(device)
        return torch.where(self.kept, gradient, 0)


def _at(module: nn.Module, path: str) -> nn.Module:
    try:
        return module.get_submodule(path)
    except AttributeError as e:
        raise ModelError(f"its surgery does not fit: {type(module).__name__} has no layer {path}") from e


def _renew(layer: nn.Module, name: str, shape: tuple[int, ...]) -> None:
    """Another tensor in the place of a parameter or buffer, of that shape."""
    old = getattr(layer, name, None)
    if not isinstance(old, Tensor) or old.shape == shape:
        return
    new = torch.empty(shape, dtype=old.dtype, device=old.device)
    setattr(layer, name, nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new)


def _natural(value: Any) -> bool:
    return type(value) is int and value > 0


def _numbers(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_natural, value))


def _list(value: Any) -> list[int]:
    return list(value) if isinstance(value, Iterable) else [value]
