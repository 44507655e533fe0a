"""How what a teacher says is packed into bytes, and what is lost by it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import prod
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from potstill.errors import ConfigError, ModelError, did_you_mean
from potstill.types import Out, Shape


@dataclass(frozen=True)
class Codec(ABC):
    """Packs what a net says at one spot, one record of ``nbytes`` bytes a sample; on any device.

    Attributes:
        shape: of one sample.
    """

    shape: Shape
    kind: ClassVar[str]

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Bytes a sample."""

    @abstractmethod
    def encode(self, t: Tensor) -> Tensor:
        """(B, *shape) -> (B, nbytes), uint8."""

    @abstractmethod
    def decode(self, b: Tensor) -> Tensor:
        """(B, nbytes), uint8 -> (B, *shape), float32; maps are channels-last."""

    def shaped(self, values: Tensor) -> Tensor:
        """The inverse of :func:`flat`: (B, n) -> (B, *shape)."""
        if len(self.shape) != 3:
            return values.view(-1, *self.shape)
        c, h, w = self.shape
        return values.view(-1, h, w, c).movedim(-1, 1)


@dataclass(frozen=True)
class Half(Codec):
    """float16: 11 bits of precision, up to 65,504."""

    kind = "float16"

    @property
    def nbytes(self) -> int:
        return 2 * prod(self.shape)

    def encode(self, t: Tensor) -> Tensor:
        half = t.half()
        if not bool(half.isfinite().all()):
            raise ModelError(
                f"the teacher says {t.float().abs().max().item():.3g}, float16 ends at 65504",
                hint="cache.dtype=float32, or cache=false",
            )
        return bytes_of(half)

    def decode(self, b: Tensor) -> Tensor:
        return self.shaped(values_of(b, torch.float16).float())


@dataclass(frozen=True)
class Single(Codec):
    """float32: as it is."""

    kind = "float32"

    @property
    def nbytes(self) -> int:
        return 4 * prod(self.shape)

    def encode(self, t: Tensor) -> Tensor:
        return bytes_of(t.float())

    def decode(self, b: Tensor) -> Tensor:
        return self.shaped(values_of(b, torch.float32))


@dataclass(frozen=True)
class Int8(Codec):
    r"""A byte a value, ``z = middle + scale * q`` with q in [-127, 127]; middle and scale of each sample in float16."""

    kind = "int8"

    @property
    def nbytes(self) -> int:
        return prod(self.shape) + 4

    def encode(self, t: Tensor) -> Tensor:
        z = flat(t.float())
        middle = ((z.amax(1) + z.amin(1)) / 2).half().float()
        reach = (z - middle[:, None]).abs().amax(1)
        scale = (reach / 127 * (1 + 2**-10)).half()  # a little more: rounded down to float16 it must still reach
        if not bool((scale.isfinite() & middle.isfinite()).all()):
            raise ModelError(
                f"the teacher says {z.abs().max().item():.3g}, too much for int8", hint="cache.dtype=float32"
            )
        q = (z - middle[:, None]).div(scale.float().clamp_min(2**-24)[:, None]).round().clamp(-127, 127)
        return torch.cat([bytes_of(torch.stack([middle.half(), scale], 1)), bytes_of(q.to(torch.int8))], 1)

    def decode(self, b: Tensor) -> Tensor:
        middle, scale = values_of(b[:, :4], torch.float16).float().unsqueeze(2).unbind(1)
        return self.shaped(torch.addcmul(middle, values_of(b[:, 4:], torch.int8).float(), scale))


@dataclass(frozen=True)
class TopK(Codec):
    """The k largest logits in float16; all others equal, at the height that keeps the probability left over.

    What is left over is measured at a temperature: there the tail has its true mass, so the kept classes have their true
    probabilities (at others nearly).

    Attributes:
        k: how many logits are kept.
        temperature: at which the mass of the tail is kept; that of the loss.
    """

    kind = "topk"
    k: int = 20
    temperature: float = 4.0

    def __post_init__(self) -> None:
        if len(self.shape) != 1:
            raise ConfigError(f"topk packs logits, (classes,); at this spot the shape is {self.shape}")
        if not 1 <= self.k < self.shape[0] or self.temperature <= 0:
            raise ConfigError(
                f"topk keeps some of the logits at a temperature above 0: it is for more than k={self.k} classes, here are "
                f"{self.shape[0]}; temperature {self.temperature:g}",
                hint="cache.dtype=float16, or int8",
            )

    @property
    def index(self) -> torch.dtype:
        return torch.int16 if self.shape[0] <= 2**15 else torch.int32

    @property
    def nbytes(self) -> int:
        return 2 + self.k * (2 + self.index.itemsize)

    def encode(self, t: Tensor) -> Tensor:
        z = t.float()
        top, at = z.topk(self.k, 1)
        rest = z.scatter(1, at, -torch.inf)
        T, others = self.temperature, torch.tensor(float(self.shape[0] - self.k))
        tail = T * (torch.logsumexp(rest / T, 1, keepdim=True) - others.log())
        values = torch.cat([tail, top], 1).half()
        if not bool(values.isfinite().all()):
            raise ModelError(f"the teacher says {z.abs().max().item():.3g}, float16 ends at 65504", hint="cache=false")
        return torch.cat([bytes_of(values), bytes_of(at.to(self.index))], 1)

    def decode(self, b: Tensor) -> Tensor:
        cut = 2 * (self.k + 1)
        values, at = values_of(b[:, :cut], torch.float16).float(), values_of(b[:, cut:], self.index).long()
        return values[:, :1].expand(-1, self.shape[0]).scatter(1, at, values[:, 1:])


@dataclass(frozen=True)
class Signs(Codec):
    """A bit a value: +1 where it is above 0, else -1. All that AB reads (arXiv 1811.03233)."""

    kind = "signs"

    @property
    def nbytes(self) -> int:
        return -(-prod(self.shape) // 8)

    def encode(self, t: Tensor) -> Tensor:
        on = F.pad(flat(t > 0).to(torch.uint8), (0, -prod(self.shape) % 8)).view(len(t), -1, 8)
        return (on << torch.arange(8, dtype=torch.uint8, device=t.device)).sum(2, dtype=torch.uint8)

    def decode(self, b: Tensor) -> Tensor:
        bits = (b.unsqueeze(2) >> torch.arange(8, dtype=torch.uint8, device=b.device)) & 1
        return self.shaped(bits.flatten(1)[:, : prod(self.shape)].float().mul_(2).sub_(1))


CODECS: dict[str, type[Codec]] = {c.kind: c for c in (Half, Single, Int8, TopK, Signs)}


def flat(t: Tensor) -> Tensor:
    """The values of each sample, (B, n). Those of maps (B, C, H, W) place by place, as in channels-last nets: of two maps in two
    orders a loss would copy one."""
    return (t.movedim(1, -1) if t.ndim == 4 else t).reshape(len(t), -1)


def bytes_of(t: Tensor) -> Tensor:
    """The bytes of each sample, (B, n), uint8."""
    return flat(t).contiguous().view(torch.uint8)


def values_of(b: Tensor, dtype: torch.dtype) -> Tensor:
    """The inverse of :func:`bytes_of`."""
    return b.clone(memory_format=torch.contiguous_format).view(dtype)


def codec(kind: str, shape: Shape, **settings: Any) -> Codec:
    """The codec of that kind.

    Raises:
        ConfigError: no such kind, or it does not fit the shape.
    """
    if kind not in CODECS:
        raise ConfigError(f"no way {kind!r} to pack values.{did_you_mean(kind, CODECS)} Known: {', '.join(CODECS)}.")
    return CODECS[kind](tuple(shape), **settings)


@dataclass(frozen=True)
class Layout:
    """A record: what a teacher says of one view of one sample, spot after spot.

    Attributes:
        fields: how each spot is packed.
    """

    fields: Mapping[str, Codec]

    @classmethod
    def of(cls, said: Out, logits: str = "float16", others: Mapping[str, str] | None = None, **settings: Any) -> Layout:
        """For a teacher that says ``said``.

        Args:
            logits: the codec of the logits, with ``settings``.
            others: the codecs of other spots, by spot; float16 where it says nothing (float32 where logits are).
        """
        plain = "float32" if logits == "float32" else "float16"
        return cls(
            {
                spot: codec(logits, (*t.shape[1:],), **settings)
                if spot == "logits"
                else codec((others or {}).get(spot, plain), (*t.shape[1:],))
                for spot, t in sorted(said.items())
            }
        )

    @property
    def nbytes(self) -> int:
        """Bytes of a record: a multiple of 8, so that it can be summed in words."""
        return -(-sum(f.nbytes for f in self.fields.values()) // 8) * 8

    def encode(self, said: Out) -> Tensor:
        """(B, nbytes), uint8."""
        for spot, f in self.fields.items():
            if tuple(said[spot].shape[1:]) != f.shape:
                raise ModelError(
                    f"at {spot!r} the teacher says {tuple(said[spot].shape[1:])}, the cache holds {f.shape}"
                )
        packed = torch.cat([f.encode(said[spot].detach()) for spot, f in self.fields.items()], 1)
        return F.pad(packed, (0, self.nbytes - packed.shape[1]))

    def decode(self, records: Tensor) -> Out:
        """What was said, in float32, on the device of the records."""
        parts = records.split([f.nbytes for f in self.fields.values()] + [self._padding], 1)
        return {spot: f.decode(b) for (spot, f), b in zip(self.fields.items(), parts, strict=False)}

    @property
    def _padding(self) -> int:
        return self.nbytes - sum(f.nbytes for f in self.fields.values())

    def errors(self, said: Out, temperature: float = 4.0) -> dict[str, float]:
        """What packing loses: of logits the mean KL divergence of the softened probabilities, of signs the share that is wrong,
        of others the relative L2 error."""
        back = self.decode(self.encode(said))
        return {spot: error(said[spot], back[spot], spot, f, temperature) for spot, f in self.fields.items()}

    def to_json(self) -> dict[str, Any]:
        """Maps bear their order: the key of a store that has another is another."""
        order = {spot: {"order": "HWC"} if len(f.shape) == 3 else {} for spot, f in self.fields.items()}
        return {
            spot: {"kind": f.kind, **asdict(f), "shape": list(f.shape), **order[spot]}
            for spot, f in self.fields.items()
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Layout:
        rows = {spot: {k: v for k, v in f.items() if k != "order"} for spot, f in value.items()}
        return cls({spot: codec(**{**f, "shape": tuple(f["shape"])}) for spot, f in rows.items()})


def error(t: Tensor, back: Tensor, spot: str, f: Codec, temperature: float = 4.0) -> float:
    """How far ``back`` is from what the teacher says at a spot, ``t``; see :meth:`Layout.errors`."""
    t, back = t.float(), back.float()
    if f.kind == "signs":
        return float(((t > 0) != (back > 0)).float().mean())
    if spot == "logits":
        return divergence(t, back, temperature)
    return float((t - back).norm() / t.norm().clamp_min(1e-12))


def divergence(p: Tensor, q: Tensor, temperature: float = 4.0) -> float:
    """Mean KL(p || q) of the softened probabilities of two sets of logits, (B, C); in float64, for it is tiny."""
    a, b = (F.log_softmax(z.double() / temperature, 1) for z in (p, q))
    return float((a.exp() * (a - b)).sum(1).mean())
