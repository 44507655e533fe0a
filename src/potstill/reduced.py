"""A teacher that says what a cache keeps of it: no more than the losses read."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from potstill.cache.key import content, files, fingerprint, settings
from potstill.errors import ModelError
from potstill.losses.base import Loss
from potstill.schemes.scheme import Link, Scheme
from potstill.taps import Frozen
from potstill.types import Batch, Out


class Reduced(Frozen):
    """A frozen teacher of whose answers is said what links read: spots, and where a loss reads less than a spot
    (``Loss.reduce``) that.

    Args:
        live: the teacher, whose net it shares.
        links: those of its scheme.

    Attributes:
        reduced: which links reduce what they read, where, and how: for a key.
        says: what is said: names of spots, and ``reduced``.
        words: ``reduced``, for people.
    """

    def __init__(self, live: Frozen, links: Iterable[Link]) -> None:
        super().__init__(live.net, live.home)
        self.links = [link for link in links if link.teacher == "teacher"]  # a list: its modules are the scheme's
        self.reducing = [link for link in self.links if link.loss.packs is not None]
        self.reduced = [f"{link.name} {link.at_t} {reduction(link.loss)}" for link in self.reducing]
        spots = {spot for link in self.links if link.loss.packs is None for spot in link.at_t}
        self.says = (*sorted(spots), *self.reduced)
        self.words = [f"{link.name} ({link.loss.extra_repr()}) of {', '.join(link.at_t)}" for link in self.reducing]

    def forward(self, x: Tensor) -> Out:
        said = super().forward(x)
        return {name: f for link in self.links for name, f in link.kept(said).items()}

    def packed(self, said: Out, how: str) -> list[str]:
        """Names of what is said for losses that pack it so."""
        names = {link.name for link in self.reducing if link.loss.packs == how}
        return [name for name in said if name.rpartition(":")[0] in names]


def reduction(loss: Loss) -> str:
    """sha256 in hex of how a loss reduces what a teacher says: its code, and what :attr:`Loss.reduce_by` names."""
    digest = hashlib.sha256(files(type(loss)).encode())
    if loss.reduce_by is not None:
        for name in loss.reduce_by:
            value = getattr(loss, name)
            said = fingerprint(value) if isinstance(value, nn.Module) else None
            digest.update(content(value) if isinstance(value, Tensor) else f"{name} {said or value}\0".encode())
        return digest.hexdigest()
    for path, part in loss.named_modules():
        digest.update(f"{path} {type(part).__qualname__} {settings(part)}\0".encode())
        if not isinstance(part, _BatchNorm):  # which gathers statistics as it is trained
            for buffer in part.buffers(recurse=False):
                digest.update(content(buffer))
    return digest.hexdigest()


@torch.no_grad()
def prove(scheme: Scheme, live: Reduced, x: Tensor) -> None:
    """Try on an example whether what losses of a user's own reduce stands for what the teacher says.

    Args:
        live: the teacher of the scheme.
        x: a few pictures, (B, C, H, W), on their device.

    Raises:
        ModelError: it does not, or ``reduce`` gives something else than a cache can keep.
    """
    for link in live.reducing:
        if type(link.loss).__module__.startswith("potstill.") or link.student is None:
            continue
        ids = torch.arange(len(x), device=x.device)
        batch = Batch(x, torch.zeros_like(ids), ids, torch.zeros_like(ids))
        student, mode = scheme.nets[link.student], scheme.nets[link.student].training
        said = {link.student: student.eval()(x), "teacher": live.net(live.brought(x))}
        student.train(mode)
        kept = {**said, "teacher": link.kept(said["teacher"])}
        tried = copy.copy(link)
        tried._modules = {**link._modules, "loss": copy.deepcopy(link.loss).eval()}
        try:
            same = torch.allclose(tried.compare(said, batch), tried.compare(kept, batch), 1e-4, 1e-6)
            why = "" if same else "it gives other rows"
        except Exception as error:
            why = f"{type(error).__name__}: {error}"
        if why:
            raise ModelError(
                f"loss {link.name!r} does not take what its reduce() gives in the place of what the teacher says: {why}",
                hint="docs/howto.md, Write a loss of your own; or packs = None",
            )
