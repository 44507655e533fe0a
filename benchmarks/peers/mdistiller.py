"""mdistiller (github.com/megvii-research/mdistiller, MIT): its own trainers on one batch, at the weights of its configs.

It wants ``pip install yacs tensorboardX tqdm`` (not torchvision: its data sets are not used). A step is ``train_iter`` of its
trainer, without its progress bar. Its code runs unmodified but for two things: where there is no GPU, ``Tensor.cuda`` gives the
tensor back during its step (it calls that always); and the trainer is made without its loggers, which would write folders.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import torch
from torch import nn

from benchmarks.peers import on_path

# Ours -> (its DISTILLER.TYPE, what its configs/cifar100 change of its defaults).
METHODS: dict[str, tuple[str, list[object]]] = {
    "kd": ("KD", []),
    "fitnet": ("FITNET", []),
    "at": ("AT", []),
    "sp": ("SP", []),
    "vid": ("VID", []),
    "rkd": ("RKD", []),
    "pkt": ("PKT", []),
    "nst": ("NST", []),
    "crd": ("CRD", []),
    "kdsvd": ("KDSVD", []),
    "ofd": ("OFD", []),
    "dkd": ("DKD", []),
    "reviewkd": ("REVIEWKD", ["REVIEWKD.REVIEWKD_WEIGHT", 5.0]),
}
SAMPLES = 50_000
METERS = ("training_time", "data_time", "losses", "top1", "top5")


@contextlib.contextmanager
def here(device: str) -> Iterator[None]:
    """``Tensor.cuda`` leaves tensors where they are, for a CPU."""
    with (
        mock.patch.object(torch.Tensor, "cuda", lambda x, *_, **__: x) if device == "cpu" else contextlib.nullcontext()
    ):
        yield


def step(
    path: Path | None,
    method: str,
    batch: tuple[torch.Tensor, torch.Tensor],
    pair: tuple[str, str],
    device: str,
    times: int = 1,
) -> Callable[[], None] | str:
    """So many ``train_iter`` of its trainer, on a batch of pictures and labels; what is missing."""
    on_path(path)
    try:
        from mdistiller.distillers import distiller_dict  # type: ignore[import-not-found]
        from mdistiller.engine import trainer_dict  # type: ignore[import-not-found]
        from mdistiller.engine.cfg import CFG  # type: ignore[import-not-found]
        from mdistiller.engine.utils import AverageMeter  # type: ignore[import-not-found]
        from mdistiller.models import cifar_model_dict  # type: ignore[import-not-found]
    except ModuleNotFoundError as error:
        return f"mdistiller needs {error.name}: pip install yacs tensorboardX tqdm"
    kind, options = METHODS[method]
    cfg = CFG.clone()
    cfg.merge_from_list(["SOLVER.WEIGHT_DECAY", 5e-4, "DISTILLER.TYPE", kind, *options])
    teacher, student = (cifar_model_dict[name][0](num_classes=100) for name in pair)
    if kind in (
        "CRD",
        "REVIEWKD",
    ):  # their widths are settings; those of other nets than the default's are said by the nets
        t, s = (net.get_stage_channels()[1:] for net in (teacher, student))
        cfg.merge_from_list(["CRD.FEAT.TEACHER_DIM", t[-1], "CRD.FEAT.STUDENT_DIM", s[-1]])
        cfg.merge_from_list(["REVIEWKD.IN_CHANNELS", [*s, s[-1]], "REVIEWKD.OUT_CHANNELS", [*t, t[-1]]])
    x, y = batch
    ids = torch.arange(len(x))
    data: tuple[torch.Tensor, ...] = (x, y, ids)
    with here(device):
        if kind == "CRD":
            negatives = torch.randint(
                SAMPLES, (len(x), cfg.CRD.NCE.K + 1)
            )  # its loader draws them, which is not counted
            negatives[:, 0] = ids
            data = (*data, negatives)
            distiller = distiller_dict[kind](student, teacher, cfg, SAMPLES)
        else:
            distiller = distiller_dict[kind](student, teacher, cfg)
    trainer_class = trainer_dict["crd" if kind == "CRD" else "base"]
    trainer = trainer_class.__new__(trainer_class)
    trainer.distiller = nn.DataParallel(distiller.to(device))
    trainer.optimizer = trainer.init_optimizer(cfg)
    trainer.distiller.train()
    meters = {name: AverageMeter() for name in METERS}

    def main() -> None:
        with here(device):
            for _ in range(times):
                trainer.train_iter(data, 1, meters)

    return main
