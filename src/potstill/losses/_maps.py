"""What losses on feature maps share: any spot as a map, two maps at one resolution."""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt
from typing import TypeGuard

import torch.nn.functional as F
from torch import Tensor, nn

from potstill.adapters import resized
from potstill.errors import ModelError
from potstill.types import Shape

Features = Tensor | Sequence[Tensor]
Shapes = Shape | Sequence[Shape]
MapShape = tuple[int, int, int]


def one(shape: Shapes) -> TypeGuard[Shape]:
    """Whether this is the shape of one spot, not a list of them."""
    return all(isinstance(n, int) for n in shape)


def map_shape(shape: Shape) -> MapShape:
    """The shape (C, H, W) that :func:`as_map` gives a feature of this shape (all without the batch).

    Raises:
        ModelError: it is no map (C, H, W), no token map (N, D) and no vector (D,).
    """
    if len(shape) == 3:
        return (shape[0], shape[1], shape[2])
    if len(shape) == 2:
        side = isqrt(shape[0])
        # class, distillation and register tokens stand before the patches
        return (shape[1], side, side) if shape[0] - side**2 in (0, 1, 2, 5) else (shape[1], shape[0], 1)
    if len(shape) == 1:
        return (shape[0], 1, 1)
    raise ModelError(
        f"a feature must be a map (C, H, W), tokens (N, D) or a vector (D,), got shape {tuple(shape)}",
        hint="choose another spot",
    )


def map_shapes(shapes: Shapes) -> list[MapShape]:
    """:func:`map_shape` of one shape or of each in a list, as a list."""
    return [map_shape(shapes)] if one(shapes) else [map_shape(tuple(s)) for s in shapes]  # type: ignore[arg-type]


def shape_pairs(s: Shapes, t: Shapes, what: str) -> list[tuple[MapShape, MapShape]]:
    """(student's, teacher's) shape at each spot.

    Raises:
        ModelError: not as many on both sides.
    """
    ss, ts = map_shapes(s), map_shapes(t)
    as_many(ss, ts, what)
    return list(zip(ss, ts, strict=True))


def as_many(s: Sequence[object], t: Sequence[object], what: str) -> None:
    """Refuse lists of unlike lengths: a silent ``zip`` would drop some."""
    if len(s) != len(t) or not s:
        raise ModelError(
            f"{what} needs as many features of the teacher as of the student, and one at least, got {len(t)} and {len(s)}",
            hint="potstill inspect --pair TEACHER STUDENT",
        )


def as_map(f: Tensor) -> Tensor:
    """A feature as a float32 map (B, C, H, W): tokens (B, N, D) on their grid, a vector (B, D) as one pixel."""
    C, H, W = map_shape(tuple(f.shape[1:]))
    f = f.float()
    return f[:, -H * W :].transpose(1, 2).unflatten(2, (H, W)) if f.ndim == 3 else f.reshape(len(f), C, H, W)


def places(f: Tensor) -> Tensor:
    """A map (B, C, H, W) as a row of channels for each place, (B, HW, C), of the same memory in either layout."""
    return f.flatten(2).mT


def pooled(f: Tensor) -> Tensor:
    """A feature averaged over its positions, (B, C), float32."""
    if f.ndim == 2:
        return f.float()
    f = as_map(f)
    return f.flatten(1) if f.shape[2] * f.shape[3] == 1 else f.mean((2, 3))


def as_list(f: Features) -> list[Tensor]:
    """One feature or several as a list of maps (B, C, H, W)."""
    return [as_map(f)] if isinstance(f, Tensor) else [as_map(g) for g in f]


def as_maps(s: Features, t: Features, what: str) -> tuple[list[Tensor], list[Tensor]]:
    """Both sides as lists of maps, of one length.

    Raises:
        ModelError: not as many on both sides.
    """
    ss, ts = as_list(s), as_list(t)
    as_many(ss, ts, what)
    return ss, ts


def at_one_size(f: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """Two maps at one resolution: on each axis the larger is averaged to the smaller."""
    size = (min(f.shape[2], g.shape[2]), min(f.shape[3], g.shape[3]))
    return resized(f, size), resized(g, size)


def smaller(a: MapShape, b: MapShape) -> tuple[int, int]:
    """The resolution of :func:`at_one_size`."""
    return (min(a[1], b[1]), min(a[2], b[2]))


def conv(c: int, out: int, kernel: int = 1) -> nn.Conv2d:
    """A convolution that keeps the resolution, without bias: BatchNorm follows it."""
    return nn.Conv2d(c, out, kernel, padding=kernel // 2, bias=False)


class BatchNorm(nn.modules.batchnorm._BatchNorm):
    """BatchNorm over vectors or maps that also serves a single value per channel (one vector, a 1x1 map of one sample).

    torch refuses that in training, where its variance is 0; here the running statistics stand in.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of axes: the channels are the second."""

    def forward(self, input: Tensor) -> Tensor:
        if self.training and input.numel() == input.shape[1]:
            return F.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
            )
        return super().forward(input)
