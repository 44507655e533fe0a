"""FSDP2: a scheme that is trained in parts, of which each process holds its own; the whole one waits on the CPU.

What is trained is a copy. Before somebody looks at the scheme (validation, a checkpoint, the end) its weights are brought up to
date (:func:`settle`), so that all but the step itself has to do with whole nets only.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from itertools import chain
from typing import Any, TypeVar, cast

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.precision import MixedPrecision
from lightning_fabric.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.optim import Optimizer

from potstill.errors import ModelError
from potstill.losses._heads import LiveHead
from potstill.recompute import blocks
from potstill.taps import Frozen, Spot, Tapped, find

SHARE = 0.05
"""A layer beside the blocks that holds more of a net's parameters is a unit of its own."""
NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
"""Layers whose weights are gathered in float32, whatever the precision."""
M = TypeVar("M", bound=nn.Module)


def strategy(processes: int) -> ModelParallelStrategy:
    """Fabric's strategy for schemes of :func:`shard`: processes, their messages, and no more."""
    return ModelParallelStrategy(lambda module, mesh: module, data_parallel_size=processes, tensor_parallel_size=1)


def sharding(fabric: Fabric) -> bool:
    """Whether schemes are trained in parts."""
    return isinstance(fabric.strategy, ModelParallelStrategy)


def seat(fabric: Fabric) -> torch.device:
    """Where whole nets wait: on the device, or on the CPU where that is to hold its parts only."""
    return torch.device("cpu") if sharding(fabric) else fabric.device


def units(net: nn.Module, lent: Collection[nn.Module] = ()) -> list[nn.Module]:
    """What is gathered when it runs, and given away again: the blocks of a net (residual blocks, layers of a transformer) and
    each other layer with more than ``SHARE`` of its parameters. What shares a parameter with the rest is none, nor is what
    somebody else reads too (``lent``)."""
    total, inside = sum(p.numel() for p in net.parameters()), blocks(net)
    among = {m for block in inside for m in block.modules()}

    def heavy(module: nn.Module) -> Iterator[nn.Module]:
        for child in module.children():
            if child not in among and sum(p.numel() for p in child.parameters()) > SHARE * total:
                own = sum(p.numel() for p in child.parameters(recurse=False))
                yield from [child] if own else heavy(child)

    places = Counter(id(p) for m in net.modules() for p in m.parameters(recurse=False))
    found = []
    for unit in dict.fromkeys([*inside, *heavy(net)]):
        own = Counter(id(p) for m in unit.modules() for p in m.parameters(recurse=False))
        if own and all(places[p] == n for p, n in own.items()) and not any(m in lent for m in unit.modules()):
            found.append(unit)
    return found


def shard(scheme: M, fabric: Fabric) -> M:
    """A copy of the scheme on the device, of whose parameters each process holds a part; the scheme itself with other strategies.

    The units of the learning nets (see :func:`units`) and, as one more, all the rest with the adapters of the losses are gathered
    when they run; a frozen teacher likewise, unless it was made faster or is kept in a cache. Layers in which spots are heard
    stay whole from the forward pass to the backward one, for a gradient may begin there. With bf16 the units are gathered in
    bf16, but for their norms, and gradients are summed in float32. Buffers are those of the first process, as with DDP.

    Raises:
        ModelError: a parameter is a single number: it has no parts.
    """
    if not sharding(fabric):
        return scheme
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    frozen = [m for m in scheme.modules() if isinstance(m, Frozen)]
    kept = {id(m): m for m in scheme.modules() if _stays(m)}
    for name, p in chain(scheme.named_parameters(), *(m.net.named_parameters() for m in frozen)):
        if p.ndim == 0:
            raise ModelError(
                f"parameter {name!r} is a single number, which strategy=fsdp cannot share out",
                hint="strategy=ddp, or a parameter of shape (1,)",
            )
    made = copy.deepcopy(scheme, {**kept})
    mesh = cast(ModelParallelStrategy, fabric.strategy).device_mesh["data_parallel"]
    half = isinstance(fabric.strategy.precision, MixedPrecision)
    policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False) if half else None
    borrowers = [v for m in made.modules() for v in vars(m).values() if isinstance(v, LiveHead)]
    lent = cast(list[nn.Module], [v.head for v in borrowers])
    names = {id(p): name for name, p in made.named_parameters()}

    def parted(net: Tapped, learns: bool) -> None:
        found, heard = units(net.net, lent), [find(net.net, Spot.parse(spot).path) for spot in net.spots]
        norms: list[nn.Module] = [
            m for unit in found for m in unit.modules() if isinstance(m, NORMS) and [*m.parameters(False)]
        ]
        if half and norms:
            fully_shard(norms, mesh=mesh, reshard_after_forward=not learns)
        for unit in found:
            inner = learns and any(m is not unit and m in heard for m in unit.modules())
            options: dict[str, Any] = {"mp_policy": policy} if policy else {}
            fully_shard(unit, mesh=mesh, reshard_after_forward=not inner, **options)

    for module in [*made.modules()]:
        if isinstance(live := getattr(module, "live", module), Frozen):
            live.home = None
        if id(module) in kept:
            module.to(fabric.device)
        elif isinstance(module, Frozen):
            parted(cast(Tapped, module.net), learns=False)
            fully_shard(module.net, mesh=mesh, reshard_after_forward=True)
        elif isinstance(module, Tapped):
            parted(module, learns=True)
    fully_shard(made, mesh=mesh)
    now = dict(made.named_parameters())
    if isinstance(trains := getattr(made, "trains", None), list):  # its parameters are others now
        trains[:] = [now[names[id(p)]] for p in trains if id(p) in names]
    made.register_forward_pre_hook(_align)
    return made


def _stays(module: nn.Module) -> bool:
    """Whether it is no plain teacher: made faster, or answering from a store, which processes ask about other pictures."""
    return bool(getattr(module, "wants_batch", False)) or (
        isinstance(module, Frozen) and type(module.net) is not Tapped
    )


@torch.no_grad()
def _align(scheme: nn.Module, args: Any) -> None:
    """Give every process the buffers of the first, as DDP does: statistics and memories do not drift apart."""
    if not scheme.training:
        return
    kinds: dict[torch.dtype, list[Tensor]] = {}
    for buffer in scheme.buffers():
        kinds.setdefault(buffer.dtype, []).append(buffer)
    for buffers in kinds.values():
        joined = torch.cat([b.flatten() for b in buffers])
        torch.distributed.broadcast(joined, src=0)
        for buffer, value in zip(buffers, joined.split([b.numel() for b in buffers]), strict=True):
            buffer.copy_(value.view_as(buffer))


@torch.no_grad()
def settle(made: nn.Module, scheme: nn.Module) -> None:
    """Bring a scheme up to date with its copy that is trained in parts. All processes must call it."""
    if made is scheme:
        return
    for (name, plain), (same, part) in zip(_tensors(scheme), _tensors(made), strict=True):
        assert name == same
        plain.copy_(gather(part))


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    return chain(module.named_parameters(), module.named_buffers())


def gather(value: Any, keep: bool = True) -> Any:
    """A tensor of which each process has a part, as a whole, on the CPU; the same of all tensors in dictionaries. All processes
    must call it; those that do not ``keep`` it get none. All else is returned as it is."""
    if isinstance(value, Mapping):
        return {k: gather(v, keep) for k, v in value.items()}
    if not hasattr(value, "full_tensor"):
        return value
    full = value.full_tensor()
    return full.cpu() if keep else None


def load_optimizer(optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Give an optimizer a state that :func:`gather` made, or that of one process: each process takes its part. How it is computed
    (``fused``, ``foreach``) stays as it was made."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    order = [i for group in state["param_groups"] for i in group["params"]]
    of = dict(zip(order, params, strict=False))
    own = [{k: group.get(k) for k in ("fused", "foreach") if k in group} for group in optimizer.param_groups]
    groups = [{**group, **how} for group, how in zip(state["param_groups"], own, strict=True)]
    parts = {i: {k: _part(v, of.get(i)) for k, v in values.items()} for i, values in state["state"].items()}
    optimizer.load_state_dict({"state": parts, "param_groups": groups})


def _part(value: Any, parameter: Any) -> Any:
    if not hasattr(parameter, "full_tensor") or not isinstance(value, Tensor) or value.shape != parameter.shape:
        return value
    from torch.distributed.tensor import distribute_tensor

    mesh = parameter.device_mesh
    return distribute_tensor(value.to(mesh.device_type), mesh, parameter.placements, src_data_rank=None)


def words(nets: Mapping[str, nn.Module], processes: int) -> str:
    """What each process will hold of these nets, for the preflight."""
    params = sum(p.numel() for net in nets.values() for p in net.parameters())
    turns = ", ".join(f"{len(units(net))} units of the {name}" for name, net in nets.items())
    each = f"{params:,} parameters ({' and '.join(nets)})"
    return f"{processes} processes share {each}; gathered in turn are {turns}, and the rest"


def held(module: nn.Module) -> tuple[int, int]:
    """Bytes of parameters in this process, and in all, of what learns and what teaches."""
    nets = [module, *(m.net for m in module.modules() if isinstance(m, Frozen))]
    params = [p for net in nets for p in net.parameters()]
    return sum(local(p).nbytes for p in params), sum(p.numel() * p.element_size() for p in params)


def local(value: Tensor) -> Tensor:
    """The part of a tensor that this process holds; itself, where that is all."""
    return value.to_local() if hasattr(value, "to_local") else value
