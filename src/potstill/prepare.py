"""Before the first epoch: load the data and the nets, look at everything, and say what will happen."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from potstill import cost
from potstill.adaptive import adaptive
from potstill.cache.place import Place
from potstill.config.schema import Config, ModelConfig
from potstill.data.arrays import Splits
from potstill.data.datasets import LiveData
from potstill.data.sources import load
from potstill.data.stream import Stream
from potstill.data.views import Views
from potstill.errors import ConfigError, ModelError
from potstill.machines import home_of_teacher, make_fabric
from potstill.methods import PRESETS
from potstill.methods.build import Built, build
from potstill.metrics import evaluate
from potstill.models.net import Net
from potstill.models.preprocess import Preprocess
from potstill.models.resolve import resolve
from potstill.models.spec import parse
from potstill.optim import make_optimizer, make_scheduler, takes
from potstill.recompute import spare
from potstill.schemes.scheme import Scheme
from potstill.schemes.spot_adaptive import SpotAdaptive
from potstill.taps import Frozen, Tapped
from potstill.teacher import Sped, Swift

ALONE: dict[str, dict[str, Any]] = {"ce": {"use": "ce", "weight": 1.0}}
EVAL_BATCH = 256
SECOND_SEED = 1  # other than that of the first view, or both would be cropped alike
READS = "mean and std of its pictures:"
MEASURED_KEPT = 8
_MEASURED: dict[tuple[Any, ...], tuple[dict[str, float], Tensor]] = {}


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
            return self.dressed(self._resolve(spec), spec)
        made = given if isinstance(given, nn.Module | Net) else given()
        return self.dressed(resolve(copy.deepcopy(made) if made is given else made), spec)

    def fresh_teacher(self, seed: int) -> Net:
        """The teacher before its training, where the run teaches it first."""
        spec = self.config.teacher
        assert spec is not None
        seed_everything(seed)
        return self.dressed(self._resolve(spec), spec)

    def _resolve(self, spec: ModelConfig) -> Net:
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
            return evaluate(logits, self.eval_stream(split), self.teacher_logits.get(split))

    def placed(self, scheme: Scheme | SpotAdaptive) -> Scheme | SpotAdaptive:
        """The scheme on the device, its convolutions channels-last where all layers can do with that (1.3 to 1.6 times as fast
        on a CPU, and what tensor cores want; equal but for rounding). With ``teacher.speed=exact`` a frozen teacher stays as it
        was given: its answers are those of the user's net, to the last bit."""
        if self.config.checkpoint_activations:
            spare(scheme)
        if isinstance(live := dict(scheme.nets).get("teacher"), Frozen):
            live.home = self.home
        self.swift(scheme).to(self.fabric.device)
        if self.channels_last:
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


def losses_of(config: Config) -> dict[str, dict[str, Any]]:
    """The losses of a configuration in the form that ``methods.build`` reads."""
    return {
        name: {
            "use": loss.use,
            "weight": loss.weight if isinstance(loss.weight, float | int) else loss.weight.model_dump(by_alias=True),
            "at": loss.at,
            "before": loss.before and loss.before.model_dump(),
            **loss.settings,
        }
        for name, loss in config.losses.items()
    }


def prepare(config: Config, objects: Objects | None = None) -> Ready:
    """Load, look, and refuse what cannot work; nothing is written, nothing is trained.

    Raises:
        PotstillError: of the class of what is wrong.
    """
    objects = objects or Objects()
    check_names(config)
    fabric = make_fabric(config)
    d = config.data
    splits = load(
        objects.data if objects.data is not None else d.source,
        size=d.size,
        channels=d.channels,
        val=d.val,
        max_bad=d.max_bad,
        labels=d.labels,
        limit=d.limit,
        seed=0,
        strict=d.strict,
        download=d.download,
    )
    ready = Ready(config, objects, splits, fabric, views_of(config, splits), home=home_of_teacher(config, fabric))
    c, h, w = splits.shape
    labelled = int((splits.train.labels >= 0).sum())
    ready.say(
        f"data     {splits.source}: {len(splits.train):,} train / {len(splits.val):,} val / {len(splits.test):,} test pictures, "
        f"{c}x{h}x{w}, {len(splits.classes)} classes"
        + (f"; {labelled:,} of the train pictures keep their label" if labelled < len(splits.train) else "")
    )
    for notice in splits.notices:
        ready.say(f"         {notice}")
    if config.kind == "distill":
        _teacher(ready)
    student = ready.student(config.seed)
    _classes_fit(student, ready, "student")
    _introduce("student", student, ready)
    return ready


def _teacher(ready: Ready) -> None:
    """Load the teacher and measure it, if it is trained; an untrained one is taught by the run itself."""
    spec, given = ready.config.teacher, ready.objects.teacher
    if spec is None and given is None:
        raise ConfigError(
            "a teacher is missing",
            hint="--teacher MODEL: a run directory, hf:..., or zoo:NAME, which is then taught first",
        )
    if given is None and untrained(spec):
        assert spec is not None
        net = ready.fresh_teacher(ready.config.seed)
        _classes_fit(net, ready, "teacher")
        epochs = spec.epochs or ready.config.epochs
        _introduce("teacher", net, ready, f"; it has no weights, so it is taught first ({epochs} epochs)")
        return
    net = resolve(given) if given is not None else ready._resolve(spec)  # type: ignore[arg-type]
    adopt(ready, ready.dressed(net, spec or ModelConfig(model="python")))


def untrained(spec: ModelConfig | None) -> bool:
    """Whether a teacher's name means a net without weights: one of the zoo or of the user's code, and no weights given."""
    return spec is not None and spec.weights is None and parse(spec.model).source in ("zoo", "file", "module")


def adopt(ready: Ready, net: Net, taught: int | None = None) -> None:
    """Take ``net`` as the teacher: hold its classes against the data's, measure it, refuse it where it is at chance.

    Args:
        taught: for how many epochs the run itself has taught it.
    """
    _classes_fit(net, ready, "teacher")
    ready.teacher, ready.teacher_order = net, class_order(net, ready.splits)
    ready.teacher_logits, ready.teacher_measures, ready.sped, ready.places = {}, {}, {}, {}
    for split in ("val", "test"):
        ready.teacher_measures[split], ready.teacher_logits[split] = _measured_once(ready, net, split)
    accuracy, chance = ready.teacher_measures["val"]["top1"], 1 / ready.num_classes
    if accuracy < min(2 * chance, (1 + chance) / 2) and not ready.config.allow_weak_teacher:
        raise ModelError(
            f"the teacher is at chance: {100 * accuracy:.1f} % on the validation data, where guessing gives {100 * chance:.1f} %",
            why=f"this run has taught it, for {taught} epoch(s)"
            if taught
            else "untrained, other class order, or other preprocessing?",
            hint=("teacher.epochs=N, with more of them" if taught else "potstill eval TEACHER --data ...")
            + "; allow_weak_teacher=true to go on all the same",
        )
    _introduce("teacher", net, ready, f", top-1 {100 * accuracy:.2f} % val")
    if ready.teacher_order is not None:
        ready.say("         its classes stand in another order: mapped by their names")


def _measured_once(ready: Ready, teacher: Net, split: str) -> tuple[dict[str, float], Tensor]:
    """Measures and logits of a teacher; several runs of one process ask it once."""
    data, order = getattr(ready.splits, split), ready.teacher_order
    same = (
        teacher.sha256,
        repr(teacher.preprocess),
        None if order is None else tuple(order.tolist()),
        (ready.splits.fingerprint, split, len(data)),
        (ready.config.data.model_dump_json(), ready.fabric.device, ready.config.precision),
    )
    if teacher.sha256 is None or isinstance(data, LiveData):
        return ready.measure(teacher, split, order)
    if same not in _MEASURED:
        if len(_MEASURED) >= MEASURED_KEPT:
            _MEASURED.clear()
        _MEASURED[same] = ready.measure(teacher, split, order)
    measures, logits = _MEASURED[same]
    return dict(measures), logits


def class_order(teacher: Net, splits: Splits) -> Tensor | None:
    """Where the teacher's logits of the data's classes stand, when it names the same classes in another order."""
    if not teacher.classes or list(teacher.classes) == list(splits.classes):
        return None
    if sorted(teacher.classes) != sorted(splits.classes):
        return None  # names that say nothing to each other (LABEL_0 ...): the accuracy will tell
    return torch.tensor([list(teacher.classes).index(c) for c in splits.classes])


def _classes_fit(net: Net, ready: Ready, who: str) -> None:
    """Run the net on a few pictures: the right number of classes must come out."""
    tapped = Tapped(net.module, (), net.preprocess)
    was = net.module.training
    try:
        with torch.no_grad():
            logits = tapped.eval()(ready.example())["logits"]
    except (RuntimeError, ValueError, TypeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(
            f"the {who} cannot read pictures of shape {ready.splits.shape}: {reason}", hint="data.size=..."
        ) from None
    finally:
        net.module.train(was)
    if logits.ndim != 2 or logits.shape[1] != ready.num_classes:
        raise ModelError(
            f"the {who} says {tuple(logits.shape[1:])} numbers for a picture, the data have {ready.num_classes} classes",
            why="a student never learns from another set of classes in silence",
            hint=f"potstill train --model {net.spec} --data {ready.config.data.source}: a {who} for these classes",
        )


def _introduce(who: str, net: Net, ready: Ready, tail: str = "") -> None:
    """A net in the preflight: what it is, by what it normalises, and what its source had to say."""
    reads = next((n.removeprefix(READS) for n in net.notices if n.startswith(READS)), "")
    size = count(cost.parameters(net.module))
    ready.say(f"{who:<8} {label(net)}  {size} parameters" + (f", mean and std {reads.strip()}" if reads else "") + tail)
    for notice in net.notices:
        if not notice.startswith(READS):
            ready.say(f"         {notice}")


def label(net: Net) -> str:
    """What to call a net: its source, what it was made with, what was cut since: ``zoo:cnn(widths=(8, 16)), pruned``."""
    made = {k: v for k, v in net.kwargs.items() if k not in ("num_classes", "in_channels")}
    name = net.spec + (f"({', '.join(f'{k}={v!r}' for k, v in made.items())})" if made else "")
    return ", ".join([name, *(net.surgery.words if net.surgery else ())])


def count(n: float) -> str:
    """1466 -> ``1,466``; 7433860 -> ``7.43 M``."""
    return f"{n:,.0f}" if n < 100_000 else f"{n / 1e6:.2f} M" if n < 1e9 else f"{n / 1e9:.2f} G"


def card(net: Net, ready: Ready) -> dict[str, Any]:
    """What a net costs, for run.json."""
    module = copy.deepcopy(net.module).to("cpu", memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]
    c, h, w = ready.splits.shape
    own = net.preprocess or Preprocess()
    shape = (own.channels or c, *(own.size or (h, w)))
    return {
        "model": label(net),
        "kwargs": dict(net.kwargs),
        "parameters": cost.parameters(module),
        "macs": cost.macs(module, shape),
        "bytes": cost.size_bytes(module),
        "latency_ms": cost.latency_ms(module, shape),
        "sha256": net.sha256,
    }


def views_of(config: Config, splits: Splits) -> Views:
    """The augmentation: what the configuration says, else what suits the data."""
    a = config.data.augment
    if a.preset not in ("auto", "none"):
        raise ConfigError(f"data.augment.preset must be auto or none, got {a.preset!r}")
    base = Views.auto(splits.source, splits.shape) if a.preset == "auto" else Views()
    given = {k: v for k, v in a.model_dump(exclude={"preset"}).items() if v is not None}
    return Views(**{**{k: getattr(base, k) for k in ("pad", "flip", "colour", "erase", "mixup", "cutmix")}, **given})


def second_of(config: Config, splits: Splits) -> Views | None:
    """The augmentation of the second view of each picture: as configured, else as a method of the run was published."""
    given = config.data.second
    if config.kind != "distill" or (given is not None and not given.on):
        return None
    wanted = [p.second for loss in config.losses.values() if (p := PRESETS.get(loss.use)) and p.second]
    if given is None and not wanted:
        return None
    base = views_of(config, splits)
    own = {k: v for k, v in given.model_dump(exclude={"preset", "on"}).items() if v is not None} if given else {}
    published = wanted[0] if wanted else {}
    return Views(**{"pad": base.pad, "flip": base.flip, **published, **own, "seed": SECOND_SEED})


def check_names(config: Config) -> None:
    """Refuse what can be refused before anything is loaded: an optimizer or schedule that torch does not have."""
    optimizer_of(config)
    make_scheduler(config.schedule.name, config.epochs, config.schedule.warmup, **config.schedule.args)


def optimizer_of(config: Config, rate: float = 1.0) -> Callable[[nn.Module], torch.optim.Optimizer]:
    """What makes the optimizer as configured, at ``rate`` times its learning rate, when a stage begins: what that stage's scheme
    trains has gradients then. Fused where torch can, except for float16, whose gradients are unscaled before clipping."""
    o = config.optim
    fused = config.precision != "16" and "fused" not in o.args and takes(o.name, "fused")
    more = {"fused": True, **o.args} if fused else o.args
    make = make_optimizer(o.name, lr=o.lr * rate, weight_decay=o.weight_decay, momentum=o.momentum, **more)
    return lambda scheme: make(scheme.begin() if isinstance(scheme, Scheme | SpotAdaptive) else scheme)
