"""A teacher that says what a cache keeps of it: no more than the losses read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from torch import Tensor

from potstill.cache.key import code, settings
from potstill.losses.base import Loss
from potstill.schemes.scheme import Link
from potstill.taps import Frozen
from potstill.types import Out


class Reduced(Frozen):
    """A frozen teacher of whose answers is said what links read: spots, and where a loss reads less than a spot
    (``Loss.reduce``) that.

    Args:
        live: the teacher, whose net it shares.
        links: those of its scheme.

    Attributes:
        packed: how what is said is to be packed, by its name, where not as numbers.
        reduced: which links reduce what they read, where, and how: for a key.
        says: what is said: names of spots, and ``reduced``.
    """

    def __init__(self, live: Frozen, links: Iterable[Link]) -> None:
        super().__init__(live.net, live.home)
        self.links = [link for link in links if link.teacher == "teacher"]  # a list: its modules are the scheme's
        reducing = [link for link in self.links if link.loss.packs is not None]
        self.packed = {
            f"{link.name}:{i}": "signs"
            for link in reducing
            if link.loss.packs == "signs"
            for i in range(len(link.at_t))
        }
        self.reduced = [f"{link.name} {link.at_t} {reduction(link.loss)}" for link in reducing]
        spots = {spot for link in self.links if link.loss.packs is None for spot in link.at_t}
        self.says = (*sorted(spots), *self.reduced)

    def forward(self, x: Tensor) -> Out:
        said = super().forward(x)
        return {name: f for link in self.links for name, f in link.kept(said).items()}


def reduction(loss: Loss) -> str:
    """sha256 in hex of how a loss reduces what a teacher says: its code and settings. What it trains has no say in that."""
    return hashlib.sha256(f"{code(type(loss))}\0{settings(loss)}".encode()).hexdigest()
