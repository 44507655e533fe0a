"""What a sweep is asked for: a configuration, what is varied, how many trials; checked before anything is loaded."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from potstill.config.load import Resolved, resolve
from potstill.config.merge import COMMAND, from_command, leaves
from potstill.config.schema import Config
from potstill.config.sections import SweepConfig
from potstill.errors import ConfigError, did_you_mean
from potstill.ready import Objects
from potstill.search.one import COSTS
from potstill.search.space import PRUNE, Dimension, read, settled, usual

FINAL_SEEDS = 3
RECOVERY = 5
"""Of so many epochs of training one is added to recover after the pruning, at least."""


@dataclass
class Plan:
    """A sweep as it is asked for.

    Attributes:
        files, overrides, flags: the configuration, as for ``config.load.resolve``.
        over: ranges by keys, or ``KEY=RANGE`` items; empty: what is usual for the run.
        trials: how many there are to be in all.
        against: parameters, macs, bytes or latency: the second aim; None: accuracy alone.
        stop: whether trials that are worse than the median of the others are stopped early.
        recover: epochs of distillation after the pruning.
        out, name: the folder is ``out/name``.
        workers: processes.
        together: trials that a process trains at once, on one pass of the teacher.
        launcher: ``ray``: the workers are tasks on a Ray cluster; None: processes of this machine.
        objects: what a Python caller gives as objects.
    """

    files: list[str] = field(default_factory=list)
    overrides: list[str] = field(default_factory=list)
    flags: dict[str, Any] = field(default_factory=dict)
    over: Mapping[str, Any] | Sequence[str] = ()
    trials: int = 20
    against: str | None = None
    recover: int | None = None
    out: str = "sweeps"
    name: str | None = None
    workers: int = 1
    together: int = 1
    launcher: str | None = None
    stop: bool = True
    objects: Objects = field(default_factory=Objects)

    @classmethod
    def asked(cls, files: list[str], overrides: list[str], flags: dict[str, Any], **said: Any) -> Plan:
        """A plan where ``sweep:`` in the configuration fills in what is not said: what is None, and ``over`` where it is empty.

        Raises:
            ConfigError: the configuration is wrong.
        """
        given = {k: v for k, v in said.items() if v is not None and not (k == "over" and not v)}
        plan = cls(files, overrides, flags, **given)
        section = plan.base.config.sweep or SweepConfig()
        return cls(files, overrides, flags, **{**{k: getattr(section, k) for k in SweepConfig.model_fields}, **given})

    def shared(self) -> dict[str, Any]:
        """The plan for another process, as plain JSON: a pair would come out as a list, which is a choice."""
        over = self.over
        if isinstance(over, Mapping):
            pairs = {k: v for k, v in over.items() if isinstance(v, tuple) and len(v) == 2}
            over = {**over, **{k: f"{low!r}..{high!r}" for k, (low, high) in pairs.items()}}
        return {k: v for k, v in asdict(self).items() if k != "objects"} | {
            "over": over,
            "workers": 1,
            "launcher": None,
        }

    @cached_property
    def _given(self) -> list[Dimension]:
        return read(self.over)

    @cached_property
    def _needed(self) -> dict[str, Any]:
        """What only the choices say (``--over student=a,b``): the first of each, where the configuration lacks them."""
        try:
            resolve(self.files, self.overrides, self.flags)
        except ConfigError as error:
            first = {d.key: d.ends()[0] for d in self._given if d.key != PRUNE}
            try:
                resolve(self.files, self.overrides, {**first, **self.flags})
            except ConfigError:
                raise error from None
            return first
        return {}

    def _resolve(self, values: Mapping[str, Any]) -> Resolved:
        return resolve(self.files, self.overrides, {**self._needed, **self.flags, **values})

    @cached_property
    def base(self) -> Resolved:
        """The configuration as it is without a sweep."""
        return self._resolve({})

    @cached_property
    def dimensions(self) -> list[Dimension]:
        """What is varied, every key and every end of a range checked against the schema.

        Raises:
            ConfigError: unknown keys, values out of range, settings that are both fixed and varied; numbers of no sense.
        """
        self._numbers()
        config, given = self.base.config, self._given
        found = settled(given, config) if given else usual(config)
        if not found:
            raise ConfigError(
                "nothing is varied: no loss has a weight or a temperature", hint="--over optim.lr=0.01..0.5"
            )
        fixed = {".".join(map(str, way)) for way, _ in leaves(from_command(self.flags, self.overrides)[0].values)}
        if twice := [d.key for d in given if d.key in fixed]:
            raise ConfigError(f"{twice[0]} is both fixed and varied", where=COMMAND, hint="one of the two")
        for d in found:
            for value in d.ends() if d.key != PRUNE else ():
                self._resolve({d.key: value})
        if config.devices > 1:
            raise ConfigError("devices: a trial has one device; several at once are --workers", where=COMMAND)
        if any(d.key == PRUNE for d in found) and (self.objects.student is not None or config.kind == "train"):
            raise ConfigError(
                "only a distilled student that has a name can be pruned in a sweep", hint="student='FILE.py:make'"
            )
        return found

    def _numbers(self) -> None:
        for flag, number, least in (
            ("trials", self.trials, 1),
            ("workers", self.workers, 1),
            ("together", self.together, 1),
            ("recover", self.recover, 0),
        ):
            if number is not None and number < least:
                raise ConfigError(f"--{flag} must be a whole number from {least}, got {number}")
        if self.against is not None and self.against not in COSTS:
            near = did_you_mean(self.against, COSTS)
            raise ConfigError(f"--against must be one of {', '.join(COSTS)}, got {self.against!r}.{near}")
        if self.launcher not in (None, "ray"):
            raise ConfigError(f"--launcher must be ray, got {self.launcher!r}", hint="without it: --workers processes")
        if (self.workers > 1 or self.launcher) and any(o is not None for o in vars(self.objects).values()):
            raise ConfigError(
                "workers: other processes cannot have the objects of this one", hint="workers=1, or names"
            )

    @property
    def config(self) -> Config:
        """The configuration of a trial without a varied setting."""
        return self._single(self.base.config)

    def resolved(self, values: Mapping[str, Any]) -> Config:
        """The configuration with these settings; one seed, unless the command says more, and no student alone beside it."""
        return self._single(self._resolve(values).config)

    def _single(self, config: Config) -> Config:
        seeds = config.seeds if self.base.origins.get("seeds") == COMMAND else 1
        own: dict[str, Any] = {"control": False, "seeds": seeds, "track": [], "sweep": None, "launcher": None}
        if self.together > 1:  # seeds of one trial come one after the other, each beside those of the others
            own["together"] = 1
            if config.together > 1 or any(d.key == "seed" for d in self._given):  # or they would see other batches
                base = self.base.config
                own["data"] = config.data.model_copy(update={"order": base.order(base.seed)})
        return config.model_copy(update=own)

    @property
    def prunes(self) -> bool:
        return any(d.key == PRUNE for d in self.dimensions)

    @property
    def second(self) -> str | None:
        """The second aim: as given; where nets are pruned, the multiply-adds, for else nothing would be."""
        return self.against or ("macs" if self.prunes else None)

    @property
    def recovery(self) -> int:
        """Epochs after the pruning."""
        return max(1, self.base.config.epochs // RECOVERY) if self.recover is None else self.recover

    @property
    def folder(self) -> Path:
        """Where it is: the same command finds it again."""
        if self.name is not None:
            return Path(self.out) / self.name
        config = self.base.config
        parts = (config.label if config.kind == "distill" else "train", config.student.model, config.data.source)
        words = (
            re.sub(r"[^\w+.=-]+", "_", part.replace("\\", "/").rsplit("/", 1)[-1]).strip("_")[:40] for part in parts
        )
        return Path(self.out) / "-".join(words)

    @property
    def made(self) -> dict[str, Any]:
        """All that the values of the trials depend on."""
        config = self.config.model_dump(
            mode="json", by_alias=True, exclude={"out", "name", "track", "control", "sweep", "launcher", "ray"}
        )
        more = {"recover": self.recovery} if self.prunes else {}
        return {"config": config, "over": {d.key: d.words() for d in self.dimensions}, "against": self.second, **more}

    @property
    def about(self) -> dict[str, Any]:
        """What the page says of the whole."""
        config = self.base.config
        return {
            "name": self.folder.name,
            "kind": config.kind,
            "method": config.label if config.kind == "distill" else "train",
            "student": config.student.model,
            "teacher": config.teacher.model if config.teacher else None,
            "data": config.data.source,
            "epochs": config.epochs,
            "wanted": self.trials,
            "against": self.second,
            "recover": self.recovery if self.prunes else None,
        }

    def commands(self, row: Mapping[str, Any]) -> list[str]:
        """What to do with the best trial: train it with several seeds, beside the student alone."""
        if any(o is not None for o in vars(self.objects).values()):
            return []
        recipe = str(self.folder / f"best-{row['number']:04d}.yaml")
        verb = self.base.config.kind
        lines = [
            shlex.join(["potstill", verb, recipe, "--seeds", str(FINAL_SEEDS), "--name", f"{self.folder.name}-best"])
        ]
        if share := row["settings"].get(PRUNE):
            trained = str(Path(self.base.config.out) / f"{self.folder.name}-best")
            small = str(Path(self.base.config.out) / f"{self.folder.name}-small")
            words = ["potstill", "compress", trained, "--prune", f"{share:.3g}", "--recover", str(self.recovery)]
            lines.append(shlex.join([*words, "--out", small]))
        return lines


def recipe(row: Mapping[str, Any]) -> str:
    """The name of the configuration of a trial that is among the best."""
    return f"best-{row['number']:04d}.yaml"
