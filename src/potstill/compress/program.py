"""A net as one program: pictures in [0, 1] in, logits out; captured without TorchScript, and described for its users."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from potstill._version import __version__
from potstill.compress.extra import quietly
from potstill.errors import ModelError
from potstill.models.net import Net
from potstill.models.preprocess import Preprocess
from potstill.taps import first_tensor
from potstill.types import Shape

LARGEST_BATCH = 4096
FORMAT = 1


class Whole(nn.Module):
    """Preprocessing and net in one, in eval mode and contiguous; works on a copy of the net.

    Shape: pictures (B, C, H, W), float32 in [0, 1] -> logits (B, classes), float32.
    """

    def __init__(self, net: Net, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        own = net.preprocess or Preprocess()
        self.prepare = Preprocess.from_json(own.to_json())
        self.net = copy.deepcopy(net.module).cpu().to(dtype=dtype)
        self.net.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        self.dtype = dtype
        self.eval().requires_grad_(False)

    def forward(self, pictures: Tensor) -> Tensor:
        return first_tensor(self.net(self.prepare(pictures).to(self.dtype)), "the net").float()


def picture_shape(net: Net) -> Shape:
    """Of the pictures that a net is given, (C, H, W).

    Raises:
        ModelError: the net does not say.
    """
    size = net.size or (net.preprocess and net.preprocess.size)
    if net.in_channels is None or not size:
        raise ModelError(
            "the net does not say of what shape its pictures are", hint="Net(module, ..., in_channels=3, size=(32, 32))"
        )
    return (net.in_channels, *size)


def capture(whole: nn.Module, shape: Shape, *, dynamic: bool = True) -> torch.export.ExportedProgram:
    """The program of a net, by ``torch.export``; its batch can have any size unless ``dynamic`` is off (then it is 1).

    The example is contiguous and owns its memory: a view would drag its whole storage into the file, and another memory format
    would be taken for granted by some runtimes.

    Raises:
        ModelError: the net cannot be captured; names the module that is the reason.
    """
    example = torch.rand(2 if dynamic else 1, *shape, generator=torch.Generator().manual_seed(0))
    sizes = ({0: torch.export.Dim("batch", min=1, max=LARGEST_BATCH)},) if dynamic else None
    entered: list[str] = []
    hooks = [
        module.register_forward_pre_hook(lambda m, a, path=path: entered.append(path))
        for path, module in whole.named_modules()
        if path
    ]
    try:
        with quietly(), torch.no_grad():
            whole(example)
            entered.clear()
            program = torch.export.export(whole, (example,), dynamic_shapes=sizes)
    except Exception as error:  # torch.export raises whatever the net's own code and its tracing raise
        path = entered[-1].removeprefix("net.") if entered else ""
        module = dict(whole.named_modules()).get(entered[-1]) if entered else None
        what = (
            f"its module {path!r} ({type(module).__name__})" if module is not None and path != "net" else "its forward"
        )
        lines = [line for line in str(error).splitlines() if line.strip()]
        raise ModelError(
            f"the net cannot be exported: {what} is the reason: {(lines or [type(error).__name__])[0][:300]}",
            why="a program has no Python in it: no branches on values, no .item(), no NumPy",
            hint="write that part with torch.where and tensor operations",
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    return program


def card(net: Net, precision: str = "float32", licence: str | None = None) -> dict[str, Any]:
    """What an artefact says of itself, plain JSON."""
    return {
        "format": FORMAT,
        "potstill": __version__,
        "model": net.spec,
        "classes": None if net.classes is None else list(net.classes),
        "preprocess": (net.preprocess or Preprocess()).to_json(),
        "picture": list(picture_shape(net)),
        "input": "pictures (batch, channels, height, width), float32 in [0, 1]; the preprocessing is inside",
        "output": "logits (batch, classes), float32",
        "precision": precision,
        "licence": licence,
    }
