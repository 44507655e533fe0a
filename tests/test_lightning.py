"""A scheme under Lightning's Trainer."""

import logging
import warnings

import pytest
import torch
from torch.utils.data import DataLoader

from potstill.losses import CE, KD
from potstill.schemes import Link, offline
from tests.engine_case import Digits, net


def test_a_scheme_trains_under_trainer() -> None:
    lightning = pytest.importorskip("lightning")
    from potstill.lightning import Distill

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.manual_seed(0)
    student, teacher = net(4), net(8)
    scheme = offline(student, teacher, [Link(CE(), 0.9, teacher=None), Link(KD(), 0.1)])
    module = Distill(scheme, lambda p: torch.optim.SGD(p, 0.2))
    student.eval()  # as its caller may have left it
    statistics = teacher[0][1].running_mean.clone()
    before = [p.detach().clone() for p in student.parameters()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = lightning.Trainer(
            max_epochs=8, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(module, DataLoader([b for e in range(1) for b in Digits().epoch(e)], batch_size=None))
    assert trainer.callback_metrics["ce"] < 0.9 * 2.2
    assert student.training
    assert not teacher.training
    assert torch.equal(teacher[0][1].running_mean, statistics)
    assert all(not torch.equal(a, b) for a, b in zip(before, student.parameters(), strict=True))
    assert not any("teacher" in k for k in module.state_dict())
