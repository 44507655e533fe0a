"""Spot-adaptive distillation: where to distil, decided anew for each sample and step, round any scheme."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from potstill.losses.ce import CE
from potstill.schemes.bridges import End
from potstill.schemes.parts import chosen, terms
from potstill.schemes.policy import Policy, gumbel, probability
from potstill.schemes.routing import Routing
from potstill.schemes.schedules import Ramp, Weight, weight_at
from potstill.schemes.scheme import Link, Pair, Scheme
from potstill.segments import evaluating
from potstill.taps import Frozen
from potstill.types import Batch, Out

Rule = Literal["adaptive", "always", "random", "anti", "none", "no_gradient"]


@dataclass(frozen=True)
class Options:
    r"""The settings of spot-adaptive distillation. The defaults are the paper's; what only its code does is off.

    Attributes:
        rule: who decides. ``adaptive``: the policy; ``anti``: the policy, and the opposite is done; ``no_gradient``: a policy
            that routing teaches nothing, so that weight decay alone moves it (the control that the paper lacks); ``always``,
            ``none``, and ``random`` with ``share``: no policy, nothing is routed.
        share: probability of distilling under ``random``; 0.5 in the authors' code.
        weight: beta_3, of the routing loss; 1.
        temperature: tau of the decisions. It only scales the policy's gradient (see :func:`gumbel`): from 5 to 1 over the
            training that grows threefold, as the paper's "gradually fades" asks, before its variance does (below 0.5).
            Quirk: constantly 5.
        hidden: width of a hidden layer of the policy; 0: linear, as published.
        initial_bias: of the policy for the teacher; 0. Quirk: 10 (where both nets are of one kind).
        bridges: what ends an adaptation layer, see :class:`Bridge`; nothing, as in the paper. Quirk: ``norm+relu``.
        gamma: the routing loss is multiplied by it where it is larger than the student's cross-entropy, and divided by it
            where it is smaller; 1: never. Quirk: 2 (with AT, RKD and VID on CIFAR-100, with all methods on Tiny-ImageNet).
        hinge: add max(0, B/2 - sum of the logits' decisions) to the routing loss, not divided by B: forces half of the batch to
            be distilled at the logits. Quirk: True.
        relation: what a relational loss (SP, PKT, RKD, CC ...) sees: ``masked``: the whole batch, and the rows of chosen
            samples count; ``subset``: the chosen samples only, as the authors' code does, weighted by their share; nothing
            where fewer than two are chosen (there RKD and CC give NaN). It waits for the device each step.
    """

    rule: Rule = "adaptive"
    share: float = 0.5
    weight: Weight = 1.0
    temperature: Weight = field(default_factory=lambda: Ramp(5.0, 1.0))
    hidden: int = 0
    initial_bias: float = 0.0
    bridges: End = "plain"
    gamma: float = 1.0
    hinge: bool = False
    relation: Literal["masked", "subset"] = "masked"

    @property
    def routes(self) -> bool:
        """Whether there is a policy, and something to teach it by."""
        return self.rule in ("adaptive", "anti", "no_gradient")


QUIRKS: dict[str, Any] = {
    "temperature": 5.0,
    "initial_bias": 10.0,
    "bridges": "norm+relu",
    "gamma": 2.0,
    "hinge": True,
    "relation": "subset",
}
"""What the authors' code does and their paper does not say, all of it: ``spot_adaptive(scheme, example, authors=True)``."""


@dataclass(frozen=True)
class Spotted:
    """How a link is weighed: the place of each of its spots among the decisions; whether each spot's part of the loss can be
    weighed alone; whether its loss compares samples with each other."""

    at: list[int]
    split: bool
    relational: bool


class SpotAdaptive(nn.Module):
    r"""A scheme in which a policy decides for each sample at which spots the teacher teaches.

    Calling it on a batch gives ``{link: (B,)}`` like the scheme itself, each link's loss times the decisions at its spot, and
    ``routing``, the loss that teaches the policy: the cross-entropy of the logits that leave the :class:`Routing` network. A
    decision for the teacher's way says that the student's layers cannot stand in for the teacher's there: there is distilled.
    Labels teach always. A link with a list of spots has a decision for each where its loss is the sum of its parts, else one
    decision, that of its last spot (``per_spot`` says which).

    The sum of all entries can be minimised at once: the routing loss reaches policy and bridges only, all others never do.
    What is deployed is the plain student.

    Args:
        scheme: the ready scheme. :func:`potstill.schemes.spots.spot_adaptive` fills in what follows by looking at its nets.
        spots: (student's, teacher's) spot of each decision, in the order of the nets, ``logits`` last.
        vectors: the spots that the policy reads, (student's, teacher's).
        links: how to weigh links, by name; what is not named stays as it is.
        options: see :class:`Options`.
        policy, routing: None where nothing is routed.

    Paper: Song, Chen, Ye, Song, IEEE TIP 2022, arXiv 2205.02399
    """

    summed: Tensor
    seen: Tensor

    def __init__(
        self,
        scheme: Scheme,
        spots: list[Pair],
        vectors: Pair,
        links: dict[str, Spotted],
        options: Options,
        policy: Policy | None = None,
        routing: Routing | None = None,
    ) -> None:
        super().__init__()
        self.scheme, self.policy, self.routing = scheme, policy, routing
        self.spots, self.vectors, self.weighed, self.options = spots, vectors, links, options
        self.labels = CE()
        self.register_buffer("summed", torch.zeros(len(spots)))
        self.register_buffer("seen", torch.zeros(()))

    @property
    def names(self) -> list[str]:
        """What the decisions are called: the student's spot, with the teacher's where one spot of the student has several."""
        ours = [s for s, _ in self.spots]
        return [s if ours.count(s) == 1 else f"{s}~{t}" for s, t in self.spots]

    @property
    def nets(self) -> nn.ModuleDict:
        return self.scheme.nets

    @property
    def links(self) -> list[Link]:
        return self.scheme.links

    @property
    def active(self) -> list[str]:
        return self.scheme.active

    @property
    def per_spot(self) -> dict[str, bool]:
        """Of each link with a list of spots, whether each of them has a decision of its own."""
        return {name: w.split for name, w in self.weighed.items() if len(w.at) > 1}

    def own_parameters(self) -> list[nn.Parameter]:
        """Those of policy and bridges."""
        return [p for m in (self.policy, self.routing) if m is not None for p in m.parameters()]

    def begin(self) -> SpotAdaptive:
        """Give gradients to what is trained here (see :meth:`Scheme.begin`)."""
        self.scheme.begin()
        for p in self.own_parameters():
            p.requires_grad_(True)
        return self

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """``{link name: (B,) weighted loss, "routing": (B,)}``."""
        said = self.scheme.speak(batch)
        a, chance = self.decide(said, batch)
        distil = a.detach() > 0.5
        if self.options.rule == "anti":
            distil, chance = ~distil, 1 - chance
        with torch.no_grad():
            self.summed += chance.detach().sum(0)
            self.seen += len(chance)
        losses = {link.name: self.weigh(link, said, batch, distil) for link in self.links}
        if self.routing is not None:
            losses["routing"] = self.route(said, batch, a)
        return losses

    def decide(self, said: dict[str, Out], batch: Batch) -> tuple[Tensor, Tensor]:
        """Decisions, 1 for the teacher's way, and their exact probabilities, (B, spots) each. No noise outside training."""
        if self.policy is None:
            share = {"always": 1.0, "random": self.options.share}.get(self.options.rule, 0.0)
            chance = torch.full((len(batch.ids), len(self.spots)), share, device=batch.x.device)
            drawn = self.options.rule == "random"  # the others leave the random numbers to the scheme
            return (torch.rand_like(chance) < chance).float() if drawn else chance, chance
        logits = self.policy(said["teacher"][self.vectors[1]], said["student"][self.vectors[0]])
        temperature = weight_at(self.options.temperature, batch.progress)
        a = gumbel(logits, temperature, None if self.training else torch.zeros_like(logits))
        if self.options.rule == "no_gradient":  # zero, not none: an optimizer decays only what has a gradient
            a = a.detach() + 0.0 * (logits - logits.detach()).sum()
        return a, probability(logits)

    def weigh(self, link: Link, said: dict[str, Out], batch: Batch, distil: Tensor) -> Tensor:
        """The link's loss of each sample, (B,), where it is distilled by ``distil``, (B, spots); else 0."""
        how = self.weighed.get(link.name)
        if how is None:
            return link(said, batch)
        if self.options.relation == "subset" and how.relational:
            return _subset(link, said, batch, distil[:, how.at[-1]])
        if not how.split:
            loss: Tensor = link(said, batch)
            return torch.where(distil[:, how.at[-1]], loss, 0.0)
        s = [said["student"][spot] for spot in link.at_s]
        t = [said["teacher"][spot].detach() for spot in link.at_t]
        parts = [
            torch.where(distil[:, k], loss, 0.0) for k, loss in zip(how.at, terms(link.loss, s, t, batch), strict=True)
        ]
        return weight_at(link.weight, batch.progress) * torch.stack(parts).sum(0)

    def route(self, said: dict[str, Out], batch: Batch, a: Tensor) -> Tensor:
        """The routing loss of each sample, (B,)."""
        assert self.routing is not None
        teacher = said["teacher"] if isinstance(self.nets["teacher"], Frozen) else None
        loss = self.labels(self.routing(batch.x, a, teacher), None, batch)
        options = self.options
        if options.gamma != 1:
            alone = self.labels(said["student"]["logits"].detach(), None, batch).mean()
            loss = loss * options.gamma ** torch.sign(loss.detach().mean() - alone)
        loss = weight_at(options.weight, batch.progress) * loss
        return loss + (len(a) / 2 - a[:, -1].sum()).clamp_min(0) if options.hinge else loss

    def decisions(self) -> dict[str, float]:
        """The mean probability of distilling at each spot since the last call, exact, not sampled. Waits for the device."""
        means = (self.summed / self.seen.clamp_min(1)).tolist()
        self.summed.zero_()
        self.seen.zero_()
        return dict(zip(self.names, means, strict=True))

    @torch.no_grad()
    def chances(self, batches: Iterable[Batch]) -> tuple[Tensor, Tensor]:
        """The probability of distilling each sample at each spot, by the nets in eval mode.

        Returns:
            ids, (n,), and probabilities, (n, spots), on the CPU, as the samples came.
        """
        ids, found = [], []
        with evaluating(self):
            for batch in batches:
                _, chance = self.decide(self.scheme.speak(batch), batch)
                ids.append(batch.ids.cpu())
                found.append((1 - chance if self.options.rule == "anti" else chance).cpu())
        return torch.cat(ids), torch.cat(found)

    def extra_repr(self) -> str:
        return f"{self.options.rule} at {', '.join(self.names)}"


def _subset(link: Link, said: dict[str, Out], batch: Batch, distil: Tensor) -> Tensor:
    """The link's loss on the chosen samples alone; 0 for the others, and for all where it has no relation to compare."""
    index = distil.nonzero()[:, 0]
    zeros = torch.zeros(len(distil), device=distil.device)
    if len(index) < 2:
        return zeros
    heard = {"student": link.at_s, "teacher": link.at_t}
    few = {net: {spot: said[net][spot][index] for spot in spots} for net, spots in heard.items()}
    return zeros.index_put((index,), link(few, chosen(batch, index)).float())


def two_speeds(
    make: Callable[[nn.Module], Optimizer], ratio: float = 0.5, weight_decay: float = 1e-3
) -> Callable[[nn.Module], Optimizer]:
    """An optimizer factory (as the engine takes) that gives policy and bridges a group of their own.

    Its learning rate is ``ratio`` times that of the first group: schedules that multiply (all of ``optim.make_scheduler``'s own)
    keep that ratio. Defaults as published: half the student's rate, and 1e-3.

    Args:
        make: makes the optimizer of everything else; of a plain scheme, of all.
    """

    def both(model: nn.Module) -> Optimizer:
        if not isinstance(model, SpotAdaptive) or not model.own_parameters():
            return make(model)
        optimizer = make(model.scheme)
        group = {"params": model.own_parameters(), "lr": optimizer.param_groups[0]["lr"] * ratio}
        decay = {"weight_decay": weight_decay} if "weight_decay" in optimizer.defaults else {}
        optimizer.add_param_group({**group, **decay})
        return optimizer

    return both
