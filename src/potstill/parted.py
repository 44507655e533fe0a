"""What a scheme learns otherwise when a batch is cut in parts, one after the other or in several processes."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from potstill.cost import at_rest
from potstill.schemes.parts import chosen, relational
from potstill.schemes.scheme import Link, Scheme
from potstill.schemes.spot_adaptive import SpotAdaptive
from potstill.taps import Frozen
from potstill.types import Batch

FEW = 16
KINDS = {
    "normalises": "batch norm, which normalises by each part",
    "compares": "what compares the samples of a part",
    "remembers": "what remembers the parts before",
    "unknown": "perhaps, for it could not be tried,",
}


def parted(scheme: Scheme | SpotAdaptive, batch: Batch) -> dict[str, list[str]]:
    """What does not come out as with the whole batch, by kind (see ``KINDS``): names of nets and of links. All else has the
    gradient of the whole batch. Tried on a few samples of ``batch`` with copies of the losses; the scheme is left as it is."""
    found: dict[str, list[str]] = {kind: [] for kind in KINDS}
    nets = {name: scheme.nets[name] for name in scheme.active if not isinstance(scheme.nets[name], Frozen)}
    learning: dict[str, nn.Module] = {**nets, **{link.name: link.loss for link in scheme.links}}
    for name, module in learning.items():
        if any(isinstance(m, _BatchNorm) and m.affine | m.track_running_stats for m in module.modules()):
            found["normalises"].append(name)
    few = chosen(batch, torch.arange(min(FEW, len(batch.ids)), device=batch.ids.device))
    with at_rest(scheme):
        said = (scheme.scheme if isinstance(scheme, SpotAdaptive) else scheme).speak(few)
        for link in scheme.links:
            s, t = link.heard(said).values()
            try:
                pair = link.loss.second_view == "pair"  # it wants two views, and says itself that it couples
                if link.loss.couples or (not pair and relational(link.loss, s, t, few, link.single)):
                    found["compares"].append(link.name)
                if not pair and _remembers(link, s, t, few):
                    found["remembers"].append(link.name)
            except Exception:  # of a loss that somebody else wrote: it may not be copied, say
                found["unknown"].append(link.name)
    return {kind: names for kind, names in found.items() if names}


def _remembers(link: Link, s: list[torch.Tensor], t: list[torch.Tensor], batch: Batch) -> bool:
    """Whether a pass changes what the loss holds, beside the statistics of norms."""
    loss = copy.deepcopy(link.loss).train()
    norms = [name for name, m in loss.named_modules() if isinstance(m, _BatchNorm)]

    def held() -> list[torch.Tensor]:
        return [b.clone() for name, b in loss.named_buffers() if name.rpartition(".")[0] not in norms]

    before = held()
    with torch.random.fork_rng(devices=[batch.x.device] if batch.x.device.type == "cuda" else []):
        _ = loss(s[0], t[0], batch) if link.single else loss(s, t, batch)
    return not all(torch.equal(a, b) for a, b in zip(before, held(), strict=True))


def words(found: dict[str, list[str]]) -> str:
    """``the gradient of the whole batch, but for batch norm, which ... (student); what compares ... (rkd)``."""
    but = "; ".join(f"{KINDS[kind]} ({', '.join(names)})" for kind, names in found.items())
    return "the gradient of the whole batch" + (f", but for {but}" if but else "")
