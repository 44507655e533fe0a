"""What a stage of a compression is: reads a net and what stages before it wrote, and fills a folder of its own."""

from __future__ import annotations

import dataclasses
import importlib
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Protocol

from torch import nn

from potstill import cost
from potstill.adopt import class_order
from potstill.config.schema import Config
from potstill.config.sections import ModelConfig
from potstill.config.stages import STAGES
from potstill.console import Console
from potstill.errors import ConfigError, did_you_mean
from potstill.models.net import Net
from potstill.prepare import prepare
from potstill.ready import Objects, Ready
from potstill.types import Shape


@dataclass
class Work:
    """What a stage has to work with.

    Attributes:
        folder: where it writes; made, and empty, unless the stage was interrupted and can go on (``Stage.resumes``). It takes
            its final name when the stage is done: write no absolute paths into it.
        net: the float net as the stages before left it, on the CPU. A stage that changes it works on this very object, or
            puts another in its place; the chain then saves it. ``net.size`` and ``net.in_channels`` are set.
        config: of the compression: data, batch, optimizer, device ... of the run that is compressed.
        teacher: the trained float net to learn from, where there is one: what ``--teacher`` names, else the student before
            its compression.
        before: the folders of the stages before, by their names (``2-recover``), in order.
        objects: what the caller gave as objects instead of names.
        origin: the caller's own module before its compression, where the net was given as one; else None.
        console: where messages go.
    """

    folder: Path
    net: Net
    config: Config
    teacher: Net
    before: dict[str, Path] = field(default_factory=dict)
    objects: Objects = field(default_factory=Objects)
    origin: nn.Module | None = None
    console: Console = field(default_factory=lambda: Console(quiet=True))

    @cached_property
    def ready(self) -> Ready:
        """The data with their views and streams, and ``measure(net, split)``; loaded when first asked for.

        ``ready.stream(seed).epoch(e)`` are training batches, ``ready.eval_stream("val").epoch(0)`` the validation pictures,
        all in [0, 1] before the net's own ``preprocess``; ``ready.splits`` has labels, classes and the fingerprint. The
        teacher is measured: ``ready.teacher_measures``, ``ready.teacher_logits`` by split.
        """
        objects = Objects(student=self.net, data=self.objects.data)
        ready = prepare(self.config.model_copy(update={"kind": "train"}), objects)
        ready.dressed(self.teacher, ModelConfig(model="python"))
        order = class_order(self.teacher, ready.splits)
        for split in ("val", "test"):
            measures, logits = ready.measure(self.teacher, split, order)
            ready.teacher_measures[split], ready.teacher_logits[split] = measures, logits
        self.teacher.module.cpu()
        return ready

    def measured(self) -> dict[str, dict[str, float]]:
        """The measures of the net as it is, on ``val`` and ``test``; ``agreement`` is that with the teacher."""
        found = {split: self.ready.measure(self.net, split)[0] for split in ("val", "test")}
        self.net.module.cpu()
        return found

    def costs(self) -> dict[str, float]:
        """What the net costs as it is: ``parameters``, ``macs``, ``bytes``."""
        module = self.net.module
        return {
            "parameters": cost.parameters(module),
            "macs": cost.macs(module, self.shape),
            "bytes": cost.size_bytes(module),
        }

    @property
    def shape(self) -> Shape:
        """Of what the net's module reads, (C, H, W): after its ``preprocess``."""
        own, size = self.net.preprocess, self.net.size
        channels = (own and own.channels) or self.net.in_channels
        height, width = (own and own.size) or size or (None, None)
        if channels is None or height is None or width is None:
            c, h, w = self.ready.splits.shape
            return (channels or c, height or h, width or w)
        return (channels, height, width)

    def last(self, kind: str) -> Path | None:
        """The folder of the latest stage before of that kind, such as ``quantize``."""
        found = [path for name, path in self.before.items() if name.partition("-")[2] == kind]
        return found[-1] if found else None


class Stage(Protocol):
    """One step of a compression. Write it as a frozen dataclass: its fields, plain JSON, are its settings.

    A stage that is done is never run again while its settings and those of the stages before it stay as they are.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def kind(self) -> str:
        """What it is called in folders and tables: ``prune``."""

    @property
    def resumes(self) -> bool:
        """Whether it can go on in the folder in which it was interrupted; if not, it begins anew in an empty one."""

    def run(self, work: Work) -> dict[str, Any]:
        """Do it.

        Returns:
            what there is to say, plain JSON: measures on ``val`` and ``test`` as ``Ready.measure`` gives them, costs,
            ``notices`` (a list of sentences for the user).
        """


def settings(stage: Stage) -> dict[str, Any]:
    """The settings of a stage: its fields."""
    return dataclasses.asdict(stage)


def make(kind: str, *value: Any, **fields: Any) -> Stage:
    """The stage of that kind: ``make("prune", 0.5, importance="taylor")``; one plain value is its first field.

    Raises:
        ConfigError: there is no such stage, or it has no such setting.
    """
    if kind not in STAGES:
        raise ConfigError(f"there is no stage {kind!r}; there are {', '.join(STAGES)}.{did_you_mean(kind, STAGES)}")
    module, _, name = STAGES[kind].partition(":")
    cls = getattr(importlib.import_module(module), name)
    known = [f.name for f in dataclasses.fields(cls)]
    strange = [k for k in fields if k not in known]
    if strange:
        raise ConfigError(
            f"{kind} has no setting {strange[0]!r}; it has {', '.join(known)}.{did_you_mean(strange[0], known)}"
        )
    made: Stage = cls(*value, **fields)
    return made
