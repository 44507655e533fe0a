"""Who teaches whom: links between nets, and the scheme that runs them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from potstill.errors import ModelError, did_you_mean
from potstill.losses.base import Loss
from potstill.schemes.schedules import Weight, weight_at
from potstill.taps import Frozen, Tapped
from potstill.types import Batch, Kept, Out

Pair = tuple[str, str]
At = str | Pair | Sequence[str | Pair]


class Link(nn.Module):
    """One arrow: at a spot, a teacher reaches a student through a loss.

    Args:
        loss: how the two are compared.
        weight: its share in the total: a number, or a :class:`Ramp` over the progress of the training.
        at: the spot: ``"logits"`` or a layer (see :class:`potstill.taps.Tapped`); a pair ``(student's, teacher's)`` where
            the names differ; a list of spots or pairs for a loss that reads several at once.
        teacher: the net that teaches; None when the labels do.
        student: the net that learns; None for a loss that reads the teacher's side alone.
        name: what its loss is called in logs; by default the loss class in lower case.
    """

    def __init__(
        self,
        loss: Loss,
        weight: Weight = 1.0,
        at: At = "logits",
        teacher: str | None = "teacher",
        student: str | None = "student",
        name: str | None = None,
    ) -> None:
        super().__init__()
        self.loss, self.weight, self.teacher, self.student = loss, weight, teacher, student
        self.name = name or type(loss).__name__.lower()
        self.single = isinstance(at, str | tuple)
        spots = [at] if isinstance(at, str | tuple) else list(at)
        pairs = [(spot, spot) if isinstance(spot, str) else (spot[0], spot[1]) for spot in spots]
        self.at_s, self.at_t = [s for s, _ in pairs], [t for _, t in pairs]

    def forward(self, said: Mapping[str, Out], batch: Batch, again: Mapping[str, Out] | None = None) -> Tensor:
        """The weighted loss of each sample, (B,).

        Args:
            said: what the nets say of the batch.
            again: what they say of its second view, where there is one and it is asked for.
        """
        weight = weight_at(self.weight, batch.progress)
        if again is None or self.loss.second_view is None:
            return weight * self.compare(said, batch)
        if self.loss.second_view == "sum":
            return weight * (self.compare(said, batch) + self.compare(again, batch))
        pairs = [(view["student"], view["teacher"]) for view in (self.heard(said), self.heard(again))]
        return weight * self.checked(self.loss([s[0] for s, _ in pairs], [t[0] for _, t in pairs], batch), batch)

    def heard(self, said: Mapping[str, Out]) -> dict[str, list[Any]]:
        """What both sides say at the link's spots; the teacher's side detached. Where a cache keeps what the loss reads of it,
        see :meth:`kept`, that is the teacher's side."""
        s: list[Any] = [said[self.student][spot] for spot in self.at_s] if self.student else [None]
        if self.teacher is None:
            return {"student": s, "teacher": [f.detach() for f in s]}
        theirs = said[self.teacher]
        kept = Kept(theirs[name] for i in range(len(theirs)) if (name := f"{self.name}:{i}") in theirs)
        if kept:
            return {"student": s, "teacher": [kept] if self.single else kept}
        return {"student": s, "teacher": [theirs[spot].detach() for spot in self.at_t]}

    def kept(self, said: Out) -> Out:
        """What a cache keeps for the link of what its teacher says: all that the loss reads, or the spots."""
        if self.loss.packs is None:
            return {spot: said[spot] for spot in self.at_t}
        t = [said[spot] for spot in self.at_t]
        kept = self.loss.reduce(t[0] if self.single else t)
        if not isinstance(kept, Kept) or any(len(f) != len(t[0]) for f in kept):
            raise ModelError(
                f"loss {self.name!r}: reduce() must give a potstill.types.Kept of tensors (B, ...), got {type(kept).__name__}"
            )
        return {f"{self.name}:{i}": f for i, f in enumerate(kept)}

    def compare(self, said: Mapping[str, Out], batch: Batch) -> Tensor:
        """The loss of each sample without its weight, (B,)."""
        s, t = self.heard(said).values()
        return self.checked(self.loss(s[0], t[0], batch) if self.single else self.loss(s, t, batch), batch)

    def checked(self, loss: Tensor, batch: Batch) -> Tensor:
        """The loss, if it has the shape (B,)."""
        if loss.shape != batch.ids.shape:
            raise ModelError(
                f"loss {self.name!r} must give one number per sample, shape {tuple(batch.ids.shape)}, got {tuple(loss.shape)}"
            )
        return loss

    def extra_repr(self) -> str:
        return f"{self.teacher or 'labels'} -> {self.student or 'itself'} at {self.at_s}, weight={self.weight}"


class Scheme(nn.Module):
    """Nets and the links between them. Calling it on a batch gives every link's weighted loss per sample, by name.

    Args:
        nets: the nets, by name; each maps pictures to logits.
        links: who teaches whom what.
        frozen: names of the nets that only teach: eval mode, no gradients, outside the module tree.
        prepare: each net's own normalisation, by net name (see ``models.Preprocess``).
        order: where the classes of the data stand among a net's, by net name (see ``Tapped``).
        trains: the parameters that this scheme trains; None: all that have gradients now.
        still: modules that stay in eval mode while it trains.

    Raises:
        ModelError: two links of one name, a link that names no net, a frozen net that shares parameters with one that
            learns, a spot that does not exist.
    """

    def __init__(
        self,
        nets: Mapping[str, nn.Module],
        links: Iterable[Link],
        frozen: Collection[str] = (),
        prepare: Mapping[str, nn.Module | None] | None = None,
        order: Mapping[str, Tensor | None] | None = None,
        trains: Iterable[nn.Parameter] | None = None,
        still: Iterable[nn.Module] = (),
    ) -> None:
        super().__init__()
        links = list(links)
        names = [link.name for link in links]
        if len({*names}) < len(names):
            raise ModelError(
                f"two links are called {max(names, key=names.count)!r}: one would hide the other", hint="name=..."
            )
        for link in links:
            for name in filter(None, (link.student, link.teacher)):
                if name not in nets:
                    raise ModelError(
                        f"link {link.name!r} names a net {name!r}.{did_you_mean(name, nets)} The scheme has: {', '.join(nets)}."
                    )
            if link.student in frozen:
                raise ModelError(f"link {link.name!r} would teach {link.student!r}, which is frozen")
        learning = {id(p) for name, net in nets.items() if name not in frozen for p in net.parameters()}
        for name in frozen:
            if any(id(p) in learning for p in nets[name].parameters()):
                raise ModelError(
                    f"the frozen net {name!r} shares parameters with one that learns",
                    hint="give the scheme a copy of it",
                )
        self.links: list[Link] = nn.ModuleList(links)  # type: ignore[assignment]
        self.nets = nn.ModuleDict()
        for name, net in nets.items():
            spots = [s for link in links if link.student == name for s in link.at_s]
            spots += [s for link in links if link.teacher == name for s in link.at_t]
            tapped = Tapped(net, sorted({*spots}), (prepare or {}).get(name), (order or {}).get(name))
            self.nets[name] = Frozen(tapped) if name in frozen else tapped
        self.frozen = {*frozen}
        self.active = [n for n in nets if any(n in (link.student, link.teacher) for link in links)]
        self.trains = [p for p in self.parameters() if p.requires_grad] if trains is None else list(trains)
        self.still = list(still)  # a list: these modules are the nets' own

    def begin(self) -> Scheme:
        """Give gradients to what this scheme trains, and to nothing else of it: schemes of several stages share modules."""
        trained = {id(p) for p in self.trains}
        for p in self.parameters():
            p.requires_grad_(id(p) in trained)
        return self

    def train(self, mode: bool = True) -> Scheme:
        """Training mode for all but ``still``."""
        super().train(mode)
        for module in self.still:
            module.eval()
        return self

    def speak(self, batch: Batch) -> dict[str, Out]:
        """What every net that a link reads says about the batch. Spots are stored in the names that links use.

        A net with ``wants_batch`` is given the batch (whose ids and views a cache needs), others its pictures. Frozen nets come
        first: their passes are over before there is what the others keep for their backward.
        """
        nets = {name: self.nets[name] for name in sorted(self.active, key=lambda name: name not in self.frozen)}
        return {name: net(batch if getattr(net, "wants_batch", False) else batch.x) for name, net in nets.items()}

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """``{link name: (B,) weighted loss}``."""
        said, again = self.speak(batch), None
        if batch.second is not None and any(link.loss.second_view == "pair" for link in self.links):
            again = self.speak(batch._replace(x=batch.second, second=None))
        return {link.name: link(said, batch, again) for link in self.links}


def offline(
    student: nn.Module,
    teacher: nn.Module,
    links: Iterable[Link],
    prepare: Mapping[str, nn.Module | None] | None = None,
) -> Scheme:
    """A trained, frozen teacher teaches a student."""
    return Scheme({"student": student, "teacher": teacher}, links, frozen=["teacher"], prepare=prepare)


def total(losses: Mapping[str, Tensor]) -> Tensor:
    """What is minimised: the sum over the links of the mean over the batch. For those who write their own loop."""
    return torch.stack([loss.mean() for loss in losses.values()]).sum()
