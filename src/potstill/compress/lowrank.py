"""Low rank: a layer becomes a chain of thinner ones whose product is near it."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from potstill import cost
from potstill.compress.groups import failing
from potstill.compress.recalibrate import plain_batches, recalibrate
from potstill.compress.stage import Work
from potstill.errors import ConfigError, ModelError
from potstill.models import surgery
from potstill.models.net import Net
from potstill.types import Shape

Form = Literal["tucker", "svd"]
SWEEPS = 2
"""Alternating improvements of the two bases of a Tucker-2 decomposition after the first guess (HOOI)."""


def lowrank(
    net: Net,
    shape: Shape,
    ratio: float | None = None,
    *,
    energy: float | None = None,
    form: Form = "tucker",
    round_to: int = 8,
    skip: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Factorise the layers of a net where that costs less, in place.

    A Linear W (O, I) becomes rank r by SVD. A convolution becomes 1x1 (I to r_in), k x k (r_in to r_out), 1x1 (r_out to O) by
    Tucker-2 (``form="tucker"``), or k x k (I to r) and 1x1 (r to O) by SVD; a 1x1 convolution always the latter. Each is the
    best of its ranks in the squared error of the weights (Tucker-2: a local optimum). Grouped and depthwise convolutions and
    the classifier stay.

    Args:
        ratio: share of the full rank that stays, in (0, 1); or
        energy: share of the squared singular values that stays, in (0, 1): each layer then has the ranks that it needs.
        round_to: ranks are multiples of it.
        skip: layers that stay, by patterns of their paths.

    Returns:
        ``{"before": costs, "after": costs, "ranks": {layer: ranks}, "error": {layer: relative error of its weights}}``.

    Raises:
        ModelError: no layer is worth it, or the net reads the weights of a layer itself.

    Papers: 1511.06530 (Tucker-2), 1405.3866 (separable filters), 1404.0736 (SVD).
    """
    _check(ratio, energy, form, round_to)
    before = _costs(net.module, shape)
    module = copy.deepcopy(net.module)
    chains: dict[str, list[int]] = {}
    errors: dict[str, float] = {}
    for path, layer in _candidates(module, shape, skip):
        weight = layer.weight.detach().double()
        weight = weight.flatten(2) if weight.dim() > 2 else weight  # (O, I, k) or (O, I)
        two = weight.dim() == 3 and weight.shape[2] > 1 and form == "tucker"
        sides = [_unfolded(weight, 1), _unfolded(weight, 0)] if two else [weight.flatten(1)]
        ranks = [_rank(side, ratio, energy, round_to) for side in sides]
        if _parameters(weight.shape, ranks) >= weight.numel():
            continue
        chain = surgery.factorised(layer, ranks, path)
        errors[path] = _fill(chain, layer, weight, ranks)
        surgery.replace(module, path, chain)
        chains[path] = ranks
    if not chains:
        raise ModelError(
            f"no layer of {type(module).__name__} gets smaller by factorisation at this rank",
            hint="a smaller ratio or energy, or round_to=1",
        )
    if place := failing(module.eval(), cost.noise(module, shape)):
        raise ModelError(
            f"{type(module).__name__} cannot be factorised: {place[0]} fails: {place[1]}", hint="skip=[LAYER]"
        )
    _install(net, chains, module)
    return {"before": before, "after": _costs(net.module, shape), "ranks": chains, "error": errors}


def _install(net: Net, chains: dict[str, list[int]], module: nn.Module) -> None:
    """Put the chains into the net's own module, and into its record: ranks, and the sizes where a layer was cut before."""
    before, old = surgery.sizes(net.module), net.surgery or surgery.Surgery()
    for path in chains:
        surgery.replace(net.module, path, module.get_submodule(path))
    now = surgery.sizes(net.module)
    sized = {path: size for path, size in now.items() if path in old.sizes and size == before.get(path)}
    for path in chains:
        if path in old.sizes:
            sized |= {inner: size for inner, size in now.items() if inner.startswith(f"{path}.")}
    zeros = tuple(z for z in old.zeros if z.rpartition(".")[0] not in chains)
    net.surgery = replace(old, factors={**old.factors, **chains}, sizes=sized, zeros=zeros)


def _candidates(module: nn.Module, shape: Shape, skip: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """Plain convolutions and Linears that ran, but the last, which is the classifier, and those inside attention."""
    ran: list[nn.Module] = []
    plain = {m: path for path, m in module.named_modules() if type(m) in (nn.Conv2d, nn.Linear)}
    hooks = [m.register_forward_hook(lambda m, *_: ran.append(m)) for m in plain]
    with cost.at_rest(module):
        module(cost.noise(module, shape))
    for hook in hooks:
        hook.remove()
    for m in dict.fromkeys(ran):
        grouped = isinstance(m, nn.Conv2d) and m.groups > 1
        if m is not ran[-1] and not grouped and not any(fnmatchcase(plain[m], pattern) for pattern in skip):
            yield plain[m], m


def _unfolded(weight: Tensor, dim: int) -> Tensor:
    return weight.movedim(dim, 0).flatten(1)


def _rank(matrix: Tensor, ratio: float | None, energy: float | None, round_to: int) -> int:
    full = min(matrix.shape)
    if energy is None:
        rank = math.ceil((ratio or 0) * full)
    else:
        share = torch.linalg.svdvals(matrix).square().cumsum(0)
        rank = int((share < energy * share[-1]).sum()) + 1
    return min(math.ceil(rank / round_to) * round_to, full)


def _parameters(shape: torch.Size, ranks: list[int]) -> int:
    o, i = shape[:2]
    k = math.prod(shape[2:])
    return i * ranks[0] + ranks[0] * ranks[1] * k + ranks[1] * o if len(ranks) == 2 else ranks[0] * (i * k + o)


def _fill(chain: nn.Sequential, layer: Any, weight: Tensor, ranks: list[int]) -> float:
    """Give the chain its weights; the relative error of their product."""
    if len(ranks) == 2:
        core, left, right = _tucker(weight, *ranks)
        near = torch.einsum("abk,oa,ib->oik", core, left, right)
        values = [right.T, core, left]
    else:
        u, s, v = torch.linalg.svd(weight.flatten(1), full_matrices=False)
        root = s[: ranks[0]].sqrt()
        left, right = u[:, : ranks[0]] * root, root[:, None] * v[: ranks[0]]
        near, values = (left @ right).view_as(weight), [right, left]
    with torch.no_grad():
        for thin, value in zip(chain.parameters(), values, strict=False):  # the only other one is the last's bias
            thin.copy_(value.reshape(thin.shape))
        if layer.bias is not None:
            chain.get_parameter(f"{len(chain) - 1}.bias").copy_(layer.bias)
    chain.train(layer.training)
    return float((near - weight).norm() / weight.norm().clamp(min=1e-30))


def _tucker(weight: Tensor, r_in: int, r_out: int) -> tuple[Tensor, Tensor, Tensor]:
    """Core (r_out, r_in, k) and the bases (O, r_out), (I, r_in) of a kernel (O, I, k)."""

    def basis(matrix: Tensor, rank: int) -> Tensor:
        return torch.linalg.svd(matrix, full_matrices=False)[0][:, :rank]

    left, right = basis(_unfolded(weight, 0), r_out), basis(_unfolded(weight, 1), r_in)
    for _ in range(SWEEPS):
        left = basis(_unfolded(torch.einsum("oik,ib->obk", weight, right), 0), r_out)
        right = basis(_unfolded(torch.einsum("oik,oa->aik", weight, left), 1), r_in)
    return torch.einsum("oik,oa,ib->abk", weight, left, right), left, right


def _costs(module: nn.Module, shape: Shape) -> dict[str, float]:
    return {"parameters": cost.parameters(module), "macs": cost.macs(module, shape), "bytes": cost.size_bytes(module)}


def _check(ratio: float | None, energy: float | None, form: str, round_to: int) -> None:
    if (ratio is None) == (energy is None) or not 0 < (ratio or energy or 0) < 1:
        raise ConfigError(f"low rank takes one of ratio and energy, a share between 0 and 1; got {ratio=}, {energy=}")
    if form not in get_args(Form) or round_to < 1:
        raise ConfigError(f"form is one of {', '.join(get_args(Form))}, round_to 1 or more; got {form!r}, {round_to}")


@dataclass(frozen=True)
class LowRank:
    """Factorise layers, then measure the BatchNorm statistics anew; see :func:`lowrank` for the settings."""

    ratio: float | None = None
    energy: float | None = None
    form: Form = "tucker"
    round_to: int = 8
    skip: tuple[str, ...] = ()
    batches: int = 20
    kind = "lowrank"
    resumes = False

    def __post_init__(self) -> None:
        _check(self.ratio, self.energy, self.form, self.round_to)

    def run(self, work: Work) -> dict[str, Any]:
        facts = lowrank(
            work.net,
            work.shape,
            self.ratio,
            energy=self.energy,
            form=self.form,
            round_to=self.round_to,
            skip=tuple(self.skip),
        )
        facts["cut"] = work.measured()
        recalibrate(work.net.module, plain_batches(work.ready, self.batches), work.net.preprocess)
        return {**facts, **work.measured(), **work.costs(), "notices": []}
