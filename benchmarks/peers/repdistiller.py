"""RepDistiller (github.com/HobbitLong/RepDistiller, BSD-2): its own loops on one batch, at its published weights.

Its code runs unmodified but for one thing: ``AliasMethod.cuda`` does nothing where there is no GPU (its CRD calls it always).
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.peers import on_path, silent

# Ours -> (its --distill, -r, -a, -b) as in scripts/run_cifar_distill.sh; `before` is the stage that comes first.
METHODS: dict[str, tuple[str, float, float, float]] = {
    "kd": ("kd", 0.1, 0.9, 0.0),
    "fitnet": ("hint", 1, 0, 100),
    "at": ("attention", 1, 0, 1000),
    "sp": ("similarity", 1, 0, 3000),
    "cc": ("correlation", 1, 0, 0.02),
    "vid": ("vid", 1, 0, 1),
    "rkd": ("rkd", 1, 0, 1),
    "pkt": ("pkt", 1, 0, 30000),
    "ab": ("abound", 1, 0, 1),
    "ab before": ("abound", 1, 0, 1),
    "ft": ("factor", 1, 0, 200),
    "ft before": ("factor", 1, 0, 200),
    "fsp": ("fsp", 1, 0, 50),
    "fsp before": ("fsp", 1, 0, 50),
    "nst": ("nst", 1, 0, 50),
    "crd": ("crd", 1, 0, 0.8),
    "crd+kd": ("crd", 1, 1, 0.8),
    "kdsvd": ("kdsvd", 1, 0, 1),
}
SAMPLES, NEGATIVES = 50_000, 16_384


class Quiet:
    """In the place of its tensorboard logger."""

    def log_value(self, *_: Any) -> None: ...


def step(
    path: Path | None,
    method: str,
    batch: tuple[torch.Tensor, torch.Tensor],
    pair: tuple[str, str],
    device: str,
    times: int = 1,
) -> Callable[[], None]:
    """So many steps of its loop (``train_distill``, or ``init`` for a stage before), on a batch of pictures and labels."""
    on_path(path)
    import crd.memory  # type: ignore[import-not-found]
    import distiller_zoo as zoo  # type: ignore[import-not-found]
    from crd.criterion import CRDLoss  # type: ignore[import-not-found]
    from helper.loops import train_distill  # type: ignore[import-not-found]
    from helper.pretrain import init  # type: ignore[import-not-found]
    from models import model_dict  # type: ignore[import-not-found]
    from models.util import Connector, ConvReg, LinearEmbed, Paraphraser, Translator  # type: ignore[import-not-found]  # fmt: skip

    if device == "cpu":
        crd.memory.AliasMethod.cuda = lambda self: None
    name, gamma, alpha, beta = METHODS[method]
    x, y = batch
    ids = torch.arange(len(x))
    opt = Namespace(distill=name, gamma=gamma, alpha=alpha, beta=beta, hint_layer=2, feat_dim=128, print_freq=10**9)
    opt.__dict__ |= {"nce_k": NEGATIVES, "nce_t": 0.07, "nce_m": 0.5, "n_data": SAMPLES, "model_s": pair[1]}
    opt.__dict__ |= {"learning_rate": 0.05, "momentum": 0.9, "weight_decay": 5e-4, "init_epochs": 1}
    teacher, student = model_dict[pair[0]](num_classes=100), model_dict[pair[1]](num_classes=100)
    f_t, f_s = (net.eval()(x[:2], is_feat=True)[0] for net in (teacher, student))
    modules, trained = nn.ModuleList([student]), nn.ModuleList([student])
    loader: list[Any] = [(x, y, ids)]

    def also(module: nn.Module, train: bool = True) -> nn.Module:
        modules.append(module)
        if train:
            trained.append(module)
        return module

    first: list[nn.Module] = []
    loss: nn.Module
    if name == "kd":
        loss = zoo.DistillKL(4)
    elif name == "hint":
        also(ConvReg(f_s[2].shape, f_t[2].shape))
        loss = zoo.HintLoss()
    elif name == "crd":
        opt.s_dim, opt.t_dim = f_s[-1].shape[1], f_t[-1].shape[1]
        loss = contrast = CRDLoss(opt)
        also(contrast.embed_s)
        also(contrast.embed_t)
        negatives = torch.randint(SAMPLES, (len(x), NEGATIVES + 1))  # its loader draws them; that time is not counted
        negatives[:, 0] = ids
        loader = [(x, y, ids, negatives)]
    elif name == "correlation":
        also(LinearEmbed(f_s[-1].shape[1], 128))
        also(LinearEmbed(f_t[-1].shape[1], 128))
        loss = zoo.Correlation()
    elif name == "vid":
        loss = nn.ModuleList(
            zoo.VIDLoss(s.shape[1], t.shape[1], t.shape[1]) for s, t in zip(f_s[1:-1], f_t[1:-1], strict=True)
        )
        trained.append(loss)
    elif name == "abound":
        connector = Connector([f.shape for f in f_s[1:-1]], [f.shape for f in f_t[1:-1]])
        first, loss = [connector, student.get_feat_modules()], zoo.ABLoss(len(f_s[1:-1]))
        also(connector, train=False)
    elif name == "factor":
        paraphraser = Paraphraser(f_t[-2].shape)
        also(Translator(f_s[-2].shape, f_t[-2].shape))
        also(paraphraser, train=False)
        first, loss = [paraphraser], zoo.FactorTransfer()
    elif name == "fsp":
        loss = zoo.FSP([f.shape for f in f_s[:-1]], [f.shape for f in f_t[:-1]])
        first = [student.get_feat_modules()]
    else:
        loss = {"attention": zoo.Attention, "nst": zoo.NSTLoss, "similarity": zoo.Similarity, "rkd": zoo.RKDLoss,
                "pkt": zoo.PKT, "kdsvd": zoo.KDSVD}[name]()  # fmt: skip
    loader *= times
    if method.endswith(" before"):
        criterion = nn.MSELoss() if name == "factor" else loss
        start = nn.ModuleList(first)

        def before() -> None:
            with silent():
                init(student, teacher, start, criterion, loader, Quiet(), opt)

        return before
    sgd = torch.optim.SGD(trained.parameters(), 0.05, 0.9, weight_decay=5e-4)
    modules.append(teacher)
    losses = nn.ModuleList([nn.CrossEntropyLoss(), zoo.DistillKL(4), loss])
    if device != "cpu":
        modules.to(device)
        losses.to(device)

    def main() -> None:
        with silent():
            train_distill(1, loader, modules, losses, sgd, opt)

    return main
