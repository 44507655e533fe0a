"""A chain of stages, a folder each: what is done is never done again, what was interrupted goes on."""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from torch import nn

from potstill._version import __version__
from potstill.card import label
from potstill.compress.first import NAME, is_recipe, read_recipe, source_of, trained
from potstill.compress.plan import checked, planned, refined, words, words_of
from potstill.compress.stage import Stage, Work, settings
from potstill.config.load import dump
from potstill.config.schema import Config
from potstill.config.sections import ModelConfig
from potstill.console import Console
from potstill.errors import ConfigError, InterruptedRun, MachineError
from potstill.files import write_atomically, write_json
from potstill.models import resolve as net_of
from potstill.models.net import Net
from potstill.models.resolve import load_student, save_student
from potstill.ready import Objects
from potstill.report import report

OWN = ("student.safetensors", "student.json", "config.yaml")


@dataclass
class Compressed:
    """A finished compression.

    Attributes:
        path: its folder.
        facts: what chain.json says: ``{"stages": [{"name", "kind", "settings", "seconds", "facts"}, ..]}``.
        net: the float net after the last stage that changed it.
    """

    path: Path
    facts: dict[str, Any]
    net: Net

    @property
    def student(self) -> nn.Module:
        """The compressed float net: the plain module, in eval mode. It wants normalised pictures: ``net.preprocess``."""
        return self.net.module.eval()


def compress(
    model: str | Path | nn.Module | Net,
    out: str | Path,
    *,
    stages: Sequence[Stage] | None = None,
    teacher: str | nn.Module | Net | None = None,
    data: Any = None,
    trust_code: bool = False,
    quiet: bool = False,
    console: Console | None = None,
    config: Mapping[str, Any] | str | Path | None = None,
    **plan: Any,
) -> Compressed:
    """Make a trained net smaller, stage by stage: prune, distil back, factorise, quantize, export ...

    Call it again with the same arguments to go on where it was interrupted: each stage has a folder in ``out``, which is whole
    or not there. What is done is told by the stages, else by ``plan``, else by ``compress:`` in the configuration of the run.

    Args:
        model: a run directory (whose data and settings it then has), another model's name, a module or a :class:`Net`; or a
            configuration (``edge.yaml``, a recipe): its student is distilled first, in ``out/run``.
        out: the folder of the compression. Its ``student.safetensors`` and ``student.json`` are the last float net; eval,
            inspect and ``potstill.load`` read it like a run.
        stages: what is done, in order; see ``potstill.compress.stage``.
        plan: or the same in the words of :func:`plan.planned`: ``prune=0.5, rounds=2, recover=10, quantize="int8"`` ...
        teacher: the net to learn back from; None: the model itself, before its compression.
        data: where the model is no run directory, or other data are meant.
        trust_code: run the code that a run directory names.
        config: further settings of the run by their names: ``{"optim.lr": 0.01, "data.batch": 128}``; or a file of them, whose
            ``compress:`` says what is done and is refined by ``plan``.

    Raises:
        PotstillError: of the class of what is wrong.
    """
    console = console or Console(quiet)
    files, more = ([], config or {}) if isinstance(config, Mapping | None) else ([str(config)], {})
    given, home = words(**plan), Path(out) / NAME
    if is_recipe(model):
        wanted = read_recipe(str(model), files, more, data, trust_code)
        said = refined(words_of(wanted.compress), given)
        if stages is None:
            checked(said)  # before a long training, not after it
        with _alone(Path(out)):
            trained(wanted, None, home, console)
        source, settled, objects = source_of(home, teacher, None, trust_code)
    else:
        source, settled, objects = source_of(model, teacher, data, trust_code, files, more)
        said = refined(words_of(settled.compress), given) if files or not given else given
    chain = [Start(), *(stages if stages is not None else planned(source, settled, objects, **said))]
    if len(chain) == 1:
        raise ConfigError(
            "nothing is to be done",
            hint="prune=0.5, or stages=[...]; --prune 0.5; `compress: {prune: 0.5}` in a configuration",
        )
    return run_chain(source, settled, objects, chain, Path(out), console)


def run_chain(
    source: Net, config: Config, objects: Objects, stages: Sequence[Stage], out: Path, console: Console
) -> Compressed:
    """Run the stages that are not done yet."""
    origin = copy.deepcopy(source.module) if source.spec.startswith("object:") else None
    teacher = source if config.teacher is None else net_of(config.teacher.model, trust_code=config.trust_code)
    if isinstance(objects.teacher, nn.Module | Net):
        teacher = net_of(objects.teacher)
    teacher = copy.deepcopy(teacher)
    net, rows = copy.deepcopy(source), []
    before: dict[str, Path] = {}
    data: dict[str, Any] = {}
    said = config.model_dump(
        mode="json", exclude_defaults=True, exclude={"out", "name", "trust_code", "track", "compress"}
    )
    key = _hash(source.sha256 or _weights(source.module), said, teacher.sha256 or _weights(teacher.module))
    with _alone(out):
        for i, stage in enumerate(stages):
            name, key = f"{i}-{stage.kind}", _hash(key, stage.kind, settings(stage))
            folder, began = out / name, time.monotonic()
            row = _done(folder, key)
            if row is None:
                console.say(f"\n {name}  {_said(settings(stage))}")
                half = _opened(out / f".{name}", key, stage.resumes)
                work = Work(half, net, config, teacher, dict(before), objects, origin, console)
                vars(work).update(data)
                try:
                    facts = stage.run(work)
                except (InterruptedRun, KeyboardInterrupt) as error:
                    raise InterruptedRun(
                        f"{name} was interrupted; what is done is in {out}", hint="the same again"
                    ) from error
                net = work.net
                data |= {"ready": vars(work)["ready"]} if "ready" in vars(work) else {}  # loaded once for all stages
                save_student(half, net)
                write_atomically(
                    half / "config.yaml", dump(config.model_copy(update={"teacher": None, "compress": None})).encode()
                )
                row = {
                    "name": name,
                    "kind": stage.kind,
                    "settings": settings(stage),
                    "key": key,
                    "potstill": __version__,
                }
                row |= {"seconds": round(time.monotonic() - began, 1), "facts": facts}
                write_json(half / "stage.json", row)
                half.rename(folder)
                for notice in facts.get("notices", []):
                    console.say(f"  note: {notice}")
            else:
                console.say(f" {name}  done before")
            net = load_student(folder, trust_code=config.trust_code, module=copy.deepcopy(origin))
            before[name] = folder
            rows.append(row)
            _say(console, row)
        for own in OWN:
            write_atomically(out / own, (folder / own).read_bytes())
        facts = {"format": 1, "potstill": __version__, "status": "done", "model": label(source), "stages": rows}
        write_json(out / "chain.json", facts)
        report(out)
    return Compressed(out, facts, net)


@dataclass(frozen=True)
class Start:
    """The net as it comes: saved and measured, so that every stage after it can be held against it."""

    kind = "student"
    resumes = False

    def run(self, work: Work) -> dict[str, Any]:
        net, splits = work.ready.dressed(work.net, ModelConfig(model="python")), work.ready.splits
        net.in_channels, net.size = net.in_channels or splits.shape[0], net.size or (splits.shape[1], splits.shape[2])
        net.classes = net.classes or list(splits.classes)
        return {**work.measured(), **work.costs(), "teacher": work.ready.teacher_measures}


def _done(folder: Path, key: str) -> dict[str, Any] | None:
    """What a finished stage says, if it is there.

    Raises:
        ConfigError: another stage is there.
    """
    if not folder.exists():
        return None
    try:
        row: dict[str, Any] = json.loads((folder / "stage.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{folder} is no finished stage: {error}", hint="move it away, or another --out") from None
    if row.get("key") != key:
        raise ConfigError(
            f"{folder} was made by another compression: other settings, weights, data or stages before it",
            why="nothing that is done is ever overwritten",
            hint="another --out, or move the folder away",
        )
    return row


def _opened(half: Path, key: str, resumes: bool) -> Path:
    """The folder of a stage that is not done: as it was left, if the stage goes on there and is the same; else empty."""
    mark = half / ".key"
    if half.exists() and not (resumes and mark.is_file() and mark.read_text("utf-8") == key):
        shutil.rmtree(half)
    half.mkdir(exist_ok=True)
    write_atomically(mark, key.encode())
    return half


@contextmanager
def _alone(out: Path) -> Any:
    """Be the only one who writes in the folder, which is nobody else's."""
    if (out / "run.json").exists():
        raise ConfigError(
            f"{out} is a run: its student, settings and report would be overwritten",
            hint="another folder, --out FOLDER",
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = FileLock(out / ".lock")
        lock.acquire(timeout=0)
    except Timeout:
        raise ConfigError(f"{out} is being written by another process", hint="wait for it, or another --out") from None
    except OSError as error:
        raise MachineError(f"cannot write {out}: {error.strerror}", hint="--out FOLDER") from None
    try:
        yield
    finally:
        lock.release()


def _hash(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def _weights(module: nn.Module) -> str:
    """The hash of the weights of a net that came as an object."""
    digest = hashlib.sha256(repr(module).encode())
    for name, value in module.state_dict().items():
        digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _said(fields: Mapping[str, Any]) -> str:
    return ", ".join(f"{k}={v}" for k, v in fields.items() if v not in (None, {}, (), []))


def _say(console: Console, row: Mapping[str, Any]) -> None:
    facts = row["facts"]
    parts = [f"{facts[k]:,.0f} {k}" for k in ("parameters", "macs", "bytes") if k in facts]
    if "val" in facts:
        parts.insert(0, f"top-1 {100 * facts['val']['top1']:.2f} % val")
    if "cut" in facts:
        parts.insert(1, f"({100 * facts['cut']['val']['top1']:.2f} % before the statistics were measured anew)")
    console.say(f"  {', '.join(parts)}" if parts else "  done")


__all__ = ["Compressed", "Start", "compress", "run_chain"]
