"""Before the first epoch: load the data and the nets, look at everything, and say what will happen."""

from __future__ import annotations

from potstill.adopt import adopt, classes_fit
from potstill.card import introduce
from potstill.config.schema import Config
from potstill.config.sections import ModelConfig
from potstill.cost import parameters
from potstill.data.sources import load
from potstill.errors import ConfigError
from potstill.machines import home_of_teacher, make_fabric
from potstill.meant import check_names, untrained, views_of
from potstill.models.resolve import resolve
from potstill.ready import Objects, Ready
from potstill.sharded import sharding, words


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
    classes_fit(student, ready, "student")
    introduce("student", student, ready)
    if ready.teacher and parameters(student.module) >= parameters(ready.teacher.module):
        ready.say("         it is no smaller than its teacher")
    if config.data.batch > len(splits.train):
        ready.say(
            f"batch    {config.data.batch} is more than there are: each step sees all {len(splits.train):,} pictures"
        )
    if sharding(fabric):
        nets = {"student": student.module, **({"teacher": ready.teacher.module} if ready.teacher else {})}
        ready.say(f"parts    {words(nets, fabric.world_size)}")
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
        classes_fit(net, ready, "teacher")
        epochs = spec.epochs or ready.config.epochs
        introduce("teacher", net, ready, f"; it has no weights, so it is taught first ({epochs} epochs)")
        return
    net = resolve(given) if given is not None else ready.resolved(spec)  # type: ignore[arg-type]
    adopt(ready, ready.dressed(net, spec or ModelConfig(model="python")))
