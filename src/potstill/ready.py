"""All that the trials of a run share: data, nets, devices, and how a scheme is put on them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from potstill.adaptive import adaptive
from potstill.cache.place import Place
from potstill.config.schema import Config
from potstill.config.sections import ModelConfig
from potstill.data.arrays import Splits
from potstill.data.stream import Stream
from potstill.data.views import Views
from potstill.meant import second_of
from potstill.methods.build import Built, build
from potstill.metrics import evaluate
from potstill.models.net import Net
from potstill.models.preprocess import Preprocess
from potstill.models.resolve import resolve
from potstill.recompute import spare
from potstill.schemes.scheme import Scheme
from potstill.schemes.spot_adaptive import SpotAdaptive
from potstill.sharded import seat, sharding
from potstill.taps import Frozen, Tapped
from potstill.teacher import Sped, Swift

EVAL_BATCH = 256
READS = "mean and std of its pictures:"


@dataclass
class Objects:
    """What a Python caller gives as objects instead of names. ``student`` may be a module, which every seed starts from, or a
    function without arguments that makes a fresh one."""

    teacher: nn.Module | Net | None = None
    student: nn.Module | Net | Callable[[], nn.Module] | None = None
    data: Any = None


@dataclass
class Ready:
    """All that the trials of a run share.

    ``sped`` is the live teacher as it runs, by the spots that are heard; ``paced`` what a run that goes on had chosen;
    ``places`` where its answers are kept; ``at_once`` how many students are trained side by side;
    ``home`` the device of the teacher where that is not the run's.
    """

    config: Config
    objects: Objects
    splits: Splits
    fabric: Fabric
    views: Views
    teacher: Net | None = None
    teacher_order: Tensor | None = None
    teacher_logits: dict[str, Tensor] = field(default_factory=dict)
    teacher_measures: dict[str, dict[str, float]] = field(default_factory=dict)
    channels_last: bool = True
    at_once: int = 1
    home: torch.device | None = None
    sped: dict[tuple[str, ...], Sped] = field(default_factory=dict)
    places: dict[tuple[str, ...], Place] = field(default_factory=dict)
    paced: dict[tuple[str, ...], dict[str, Any]] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)

    def say(self, line: str) -> None:
        self.lines.append(line)

    @property
    def num_classes(self) -> int:
        return len(self.splits.classes)

    def example(self, n: int = 2) -> Tensor:
        """A few pictures as nets see them, (n, C, H, W), in [0, 1], on the CPU."""
        batch = next(Stream(self.splits.train, max(n, 2), shuffle=False).epoch(0))
        return batch.x[:n]

    def student(self, seed: int) -> Net:
        """The student before its training, fresh: its weights are a function of the seed alone."""
        seed_everything(seed)
        given, spec = self.objects.student, self.config.student
        if given is None:
            return self.dressed(self.resolved(spec), spec)
        made = given if isinstance(given, nn.Module | Net) else given()
        return self.dressed(resolve(copy.deepcopy(made) if made is given else made), spec)

    def fresh_teacher(self, seed: int) -> Net:
        """The teacher before its training, where the run teaches it first."""
        spec = self.config.teacher
        assert spec is not None
        seed_everything(seed)
        return self.dressed(self.resolved(spec), spec)

    def resolved(self, spec: ModelConfig) -> Net:
        return resolve(
            spec.model,
            num_classes=self.num_classes,
            in_channels=self.splits.shape[0],
            weights=spec.weights,
            partial=spec.partial,
            trust_code=self.config.trust_code,
            **spec.kwargs,
        )

    def dressed(self, net: Net, spec: ModelConfig) -> Net:
        """The net with its own normalisation: the configuration's, else what it brings, else that of the training pictures."""
        own = net.preprocess or Preprocess()
        if spec.mean is not None or spec.std is not None or spec.size is not None:
            own = Preprocess(spec.mean or own.mean, spec.std or own.std, spec.size or own.size, own.channels)
        net.preprocess = own.with_data(self.splits.mean, self.splits.std)
        whose = "as configured" if spec.mean is not None else "its own" if own.mean is not None else "those of the data"
        net.notices = [n for n in net.notices if not n.startswith(READS)] + [f"{READS} {whose}"]
        return net

    def stream(self, seed: int, labels_only: bool = False) -> Stream:
        """The training stream of a trial.

        A net that learns from the labels alone sees the labelled pictures only, for as many steps as one that also learns
        from a teacher: the budget of a student is its steps.
        """
        c, data, steps = self.config, self.splits.train, None
        if labels_only and bool((data.labels < 0).any()):
            data, steps = data.labelled(), len(self.stream(seed))
        return Stream(
            data,
            c.data.batch,
            seed=c.order(seed),
            views=self.views,
            workers=c.data.workers,
            steps=steps,
            rank=self.fabric.global_rank,
            world=self.fabric.world_size,
            num_classes=self.num_classes,
            device=self.fabric.device,
            second=None if labels_only else second_of(c, self.splits),
            cycle=c.cache.views if c.cache.on and c.kind == "distill" and not labels_only else None,
        )

    def eval_stream(self, split: str) -> Stream:
        """The pictures of a split as they are, in order."""
        return Stream(getattr(self.splits, split), EVAL_BATCH, shuffle=False, device=self.fabric.device)

    def measure(self, net: Net, split: str, order: Tensor | None = None) -> tuple[dict[str, float], Tensor]:
        """A net's measures and logits on a split; agreement with the teacher where there is one."""
        home = (self.home if net is self.teacher else None) or self.fabric.device
        tapped = Tapped(net.module, (), net.preprocess, order).to(home).eval()

        def logits(x: Tensor) -> Tensor:
            return tapped(x.to(home))["logits"].to(x.device)

        with torch.no_grad(), torch.compiler.set_stance("force_eager"):  # other batch sizes: not worth compiling
            measured = evaluate(logits, self.eval_stream(split), self.teacher_logits.get(split))
        if sharding(self.fabric):
            tapped.to(seat(self.fabric))
        return measured

    def placed(self, scheme: Scheme | SpotAdaptive) -> Scheme | SpotAdaptive:
        """The scheme on the device, its convolutions channels-last where all layers can do with that (1.3 to 1.6 times as fast
        on a CPU, and what tensor cores want; equal but for rounding). With ``teacher.speed=exact`` a frozen teacher stays as it
        was given: its answers are those of the user's net, to the last bit."""
        if self.config.checkpoint_activations:
            spare(scheme)
        if isinstance(live := dict(scheme.nets).get("teacher"), Frozen):
            live.home = seat(self.fabric) if sharding(self.fabric) else self.home
        self.swift(scheme).to(seat(self.fabric))
        if self.channels_last and not sharding(self.fabric):  # FSDP wants weights in their plain order
            exact = self.config.teacher is not None and self.config.teacher.speed == "exact"
            nets = [
                n for n in scheme.nets.values() if not isinstance(n, Frozen) or not (exact or isinstance(n.net, Swift))
            ]
            parts: list[Any] = [scheme.links, *nets] if isinstance(scheme, Scheme) else [scheme]
            for part in parts:
                part.to(memory_format=torch.channels_last)
        return scheme

    def swift(self, scheme: Scheme | SpotAdaptive) -> Scheme | SpotAdaptive:
        """The scheme with its live teacher as it was made faster, if it was."""
        live = scheme.nets["teacher"] if "teacher" in scheme.nets and type(scheme) is Scheme else None
        if isinstance(live, Frozen) and isinstance(live.net, Tapped) and (sped := self.sped.get(live.net.spots)):
            scheme.nets["teacher"] = Frozen(sped.net, live.home)
        return scheme

    def build(self, student: Net, losses: dict[str, dict[str, Any]], teacher: Net | None) -> Built:
        """The scheme of a trial, on the CPU."""
        for net in (student, teacher):
            if net is not None and net.preprocess is not None:
                net.preprocess.cpu()  # it goes with the net, and is no part of its module
        built = build(
            student.module.cpu(),
            teacher.module.cpu() if teacher else None,
            losses,
            self.example(),
            prepare={"student": student.preprocess, "teacher": teacher.preprocess if teacher else None},
            order={"teacher": self.teacher_order} if teacher else None,
            facts={
                "num_classes": self.num_classes,
                "num_samples": self.splits.num_samples,
                "labels": torch.as_tensor(self.splits.all_labels),
            },
        )
        spots = self.config.spots
        return adaptive(built, self.example(), spots) if spots is not None and teacher is not None else built


def seed_everything(seed: int) -> None:
    """Put all global random generators to ``seed``."""
    import random

    import numpy as np

    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
