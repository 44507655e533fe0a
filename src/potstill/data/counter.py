"""Randomness without state: a number is a hash of what it is for, so it never depends on what was drawn before it.

The hash is splitmix64 (Steele, Lea, Flood, OOPSLA 2014) on int64 tensors with wrap-around: the same numbers on every
device, in every order and in every batch. No generator of torch, numpy or Python is read or moved.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15
_MUL1, _MUL2 = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def _signed(value: int) -> int:
    """The int64 with the lowest 64 bits of ``value``."""
    return (value & (2**64 - 1)) - (2**64 if value & 2**63 else 0)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical shift to the right (that of torch copies the sign)."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def mix(x: Tensor) -> Tensor:
    """The splitmix64 step of each int64: a bijection, so different inputs give different numbers."""
    x = x + _signed(_GOLDEN)
    x = (x ^ _shift(x, 30)) * _signed(_MUL1)
    x = (x ^ _shift(x, 27)) * _signed(_MUL2)
    return x ^ _shift(x, 31)


def mix_int(*values: int) -> int:
    """One int64 from several whole numbers; the order of them counts."""
    h = 0
    for value in values:
        h = (h ^ value) + _GOLDEN & 2**64 - 1
        h = (h ^ h >> 30) * _MUL1 & 2**64 - 1
        h = (h ^ h >> 27) * _MUL2 & 2**64 - 1
        h ^= h >> 31
    return _signed(h)


def bits(seed: int, ids: Tensor, views: Tensor, streams: Sequence[str]) -> Tensor:
    """Whole numbers in [0, 2^32), one for each named stream and sample, (len(streams), B), int64.

    A number depends on (seed, id, view, name of the stream) and on nothing else.
    """
    key = mix(mix(ids ^ mix_int(seed)) ^ views)
    return _shift(mix(key ^ _salts(tuple(streams), key.device)), 32)


@lru_cache(maxsize=64)
def _salts(streams: tuple[str, ...], device: torch.device) -> Tensor:
    return torch.tensor([[mix_int(zlib.crc32(name.encode()))] for name in streams]).to(device)


def below(random: Tensor, n: int | Tensor) -> Tensor:
    """Whole numbers in [0, n) from :func:`bits`; n up to 2^31."""
    return (random * n) >> 32


def unit(random: Tensor) -> Tensor:
    """float32 in [0, 1) from :func:`bits`, in steps of 2^-24, so that no rounding gives 1."""
    return (random >> 8).float() * 2**-24


def permutation(n: int, *key: int) -> Tensor:
    """A random order of 0..n-1 that is a function of the key, (n,), int64."""
    return mix(torch.arange(n) ^ mix_int(*key)).argsort()
