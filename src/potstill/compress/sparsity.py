"""Zeros in the weights, anywhere (unstructured) or N in every M: smaller when packed, faster almost nowhere."""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from potstill.compress.stage import Work
from potstill.errors import ConfigError, ModelError
from potstill.models.net import Net
from potstill.models.surgery import Surgery

SLOW = (
    "zeros make nothing faster here: PyTorch, ONNX Runtime and XNNPACK multiply them like other numbers. "
    "The file is smaller only when it is packed (zip, gzip)."
)
SLOW_N_M = (
    "2:4 zeros are faster only on NVIDIA GPUs from Ampere on with sparse kernels (TensorRT, cuSPARSELt), in half precision or "
    "int8; everywhere else, as in PyTorch, ONNX Runtime and XNNPACK on a CPU, they are multiplied like other numbers."
)


def sparsify(
    net: Net, ratio: float | None = None, pattern: str | None = None, *, skip: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Set the smallest weights of convolutions and Linears to zero, in place; training keeps them zero (``net.surgery``).

    Biases, norms and the last Linear or convolution (the classifier) stay as they are.

    Args:
        ratio: share of all these weights, the smallest in absolute value over the whole net; or
        pattern: ``N:M``, such as ``2:4``: N of every M neighbours along the input channels stay, the largest.
        skip: layers that stay, by patterns of their paths.

    Returns:
        ``{"zeros": share, "layers": {path: share}, "packed_bytes": .., "kept": {path: why}, "notices": [..]}``.

    Papers: 1506.02626 (magnitude), 2104.08378 (2:4).
    """
    n, m = _check(ratio, pattern)
    layers = {path: x for path, x in net.module.named_modules() if isinstance(x, _ConvNd | nn.Linear)}
    chosen = {p: x for p, x in list(layers.items())[:-1] if not any(fnmatchcase(p, s) for s in skip)}
    kept: dict[str, str] = {}
    masks: dict[str, Tensor] = {}
    if m:
        for path, layer in chosen.items():
            if layer.weight.shape[1] % m:
                kept[path] = f"{layer.weight.shape[1]} inputs are no multiple of {m}"
            else:
                masks[path] = n_of_m(layer.weight.detach(), n, m)
    elif chosen:
        sizes = torch.cat([layer.weight.detach().abs().flatten() for layer in chosen.values()])
        count = round((ratio or 0) * len(sizes))
        limit = sizes.kthvalue(count).values if count else sizes.new_tensor(-1.0)
        masks = {path: layer.weight.detach().abs() > limit for path, layer in chosen.items()}
    if not masks:
        raise ModelError(
            f"no layer of {type(net.module).__name__} can have {pattern or ratio} zeros: {kept or 'all skipped'}"
        )
    with torch.no_grad():
        for path, mask in masks.items():
            chosen[path].weight.mul_(mask)
    earlier = net.surgery or Surgery()
    names = dict.fromkeys([*earlier.zeros, *(f"{path}.weight" for path in masks)])
    net.surgery = replace(earlier, zeros=tuple(names))
    weights = torch.cat([layer.weight.detach().flatten() for layer in layers.values()])
    return {
        "zeros": float((weights == 0).float().mean()),
        "layers": {path: float((~mask).float().mean()) for path, mask in masks.items()},
        "packed_bytes": packed_bytes(net.module),
        "kept": kept,
        "notices": [SLOW_N_M if pattern else SLOW],
    }


def n_of_m(weight: Tensor, n: int, m: int) -> Tensor:
    """Which weights (O, I, ...) stay: the n largest of every m neighbours along I."""
    rows = weight.abs().movedim(1, -1)
    groups = rows.unflatten(-1, (-1, m))
    mask = torch.zeros_like(groups, dtype=torch.bool).scatter_(-1, groups.topk(n, -1).indices, True)
    return mask.flatten(-2).movedim(-1, 1)


def packed_bytes(module: nn.Module) -> int:
    """Bytes of the weights under zlib: what zeros save on a disk or a wire."""
    content = b"".join(t.detach().cpu().contiguous().numpy().tobytes() for t in module.state_dict().values())
    return len(zlib.compress(content, 6))


def _check(ratio: float | None, pattern: str | None) -> tuple[int, int]:
    """N and M of a pattern, else 0, 0."""
    match = re.fullmatch(r"(\d+):(\d+)", pattern) if pattern else None
    n, m = (int(match[1]), int(match[2])) if match else (0, 0)
    if (ratio is None) == (pattern is None) or (ratio is not None and not 0 < ratio < 1):
        raise ConfigError(f"sparsity takes one of ratio (between 0 and 1) and pattern (2:4); got {ratio=}, {pattern=}")
    if pattern and not 0 < n < m:
        raise ConfigError(f"a pattern is N:M with N smaller than M, such as 2:4; got {pattern!r}")
    return n, m


@dataclass(frozen=True)
class Sparsify:
    """Set small weights to zero; see :func:`sparsify` for the settings."""

    ratio: float | None = None
    pattern: str | None = None
    skip: tuple[str, ...] = ()
    kind = "sparsify"
    resumes = False

    def __post_init__(self) -> None:
        _check(self.ratio, self.pattern)

    def run(self, work: Work) -> dict[str, Any]:
        facts = sparsify(work.net, self.ratio, self.pattern, skip=tuple(self.skip))
        return {**facts, **work.measured(), **work.costs()}
