"""torchdistill (github.com/yoshitomo-matsubara/torchdistill, MIT): its distillation box on one batch.

``--peer torchdistill`` takes the installed package, ``--peer torchdistill=PATH`` a checkout. The package imports torchvision, so
where that cannot be imported there is nothing to measure, and the line says so; a torchvision that was built for another torch
(its operators are missing) does, for nothing here calls them. A step is what the loop of its
examples/torchvision/image_classification.py does with a batch; the teacher is in eval mode, which its loop leaves to the user.
It takes any net, so it has ours, in their default memory format. The methods are those that both have; modules round the nets
are its own auxiliary wrappers, wired as its sample configurations wire them, at the layers, widths and weights that the other
peers use for CIFAR-100. ``cc`` is its Gaussian kernel, FitNet's hint goes through its 1x1 connector.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import torch
from torch import nn

from benchmarks.peers import on_path
from benchmarks.peers._torchdistill import NEGATIVES, SAMPLES, STAGES, config

METHODS = dict.fromkeys(
    ("kd", "fitnet", "at", "sp", "cc", "vid", "rkd", "pkt", "ab before", "ft", "ft before", "fsp before", "crd", "dist",
     "reviewkd", "ickd")
)  # fmt: skip
"""Ours; theirs are in :func:`benchmarks.peers._torchdistill.config`."""


def nets(pair: tuple[str, str]) -> list[nn.Module]:
    from potstill.models import resolve

    return [resolve(f"zoo:{name}", num_classes=100, in_channels=3).module for name in pair]


def widths(net: nn.Module) -> dict[str, int]:
    """Channels of the stages' maps; of what its classifier takes."""
    found: dict[str, int] = {"fc": net.get_submodule("fc").in_features}  # type: ignore[dict-item]

    def hear(stage: str) -> Callable[..., None]:
        return lambda module, args, said: found.update({stage: said.shape[1]})

    ears = [net.get_submodule(stage).register_forward_hook(hear(stage)) for stage in STAGES]
    with torch.no_grad():
        net.eval()(torch.zeros(1, 3, 32, 32))
    for ear in ears:
        ear.remove()
    net.train()
    return found


def importable() -> str | None:
    """Why it cannot be imported here."""
    try:
        try:
            import torchvision  # noqa: F401
        except RuntimeError:  # built for another torch: it says the shapes of operators that it could not load
            sys.modules["torchvision._meta_registrations"] = ModuleType("torchvision._meta_registrations")
        import torchdistill.core.distillation  # type: ignore[import-not-found]  # noqa: F401
    except (ImportError, RuntimeError) as error:
        return f"torchdistill cannot be imported here: {error}"
    return None


def step(
    path: Path | None,
    method: str,
    batch: tuple[torch.Tensor, torch.Tensor],
    pair: tuple[str, str],
    device: str,
    times: int = 1,
) -> Callable[[], None] | str:
    """So many steps of its loop, on a batch of pictures and labels; what is missing."""
    if path is not None:
        on_path(path)
    if why := importable():
        return why
    from torchdistill.core.distillation import get_distillation_box

    teacher, student = nets(pair)
    made = config(method, widths(student), widths(teacher))
    at = torch.device(device)
    box = get_distillation_box(teacher.to(at), student.to(at), {}, made, at, None, False, 1)
    box.pre_epoch_process(epoch=0)
    teacher.eval()
    x, y = batch
    supplied: dict[str, torch.Tensor] = {}
    if method == "crd":  # its loader draws them, which is not counted
        ids, negatives = torch.arange(len(x)), torch.randint(SAMPLES, (len(x), NEGATIVES + 1))
        negatives[:, 0] = ids
        supplied = {"pos_idx": ids, "contrast_idx": negatives}

    def main() -> None:
        for _ in range(times):
            pictures, labels = x.to(device), y.to(device)
            loss = box.forward_process(pictures, labels, supplied)
            box.post_forward_process(loss=loss)
            loss.item()
            if torch.isnan(loss) or torch.isinf(loss):
                raise ValueError(f"the loss is {loss}")

    return main
