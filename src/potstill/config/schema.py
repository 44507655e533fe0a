"""What can be configured: one experiment, complete; the settings of each part are in sections.py. No torch."""

from typing import Annotated, Literal

from pydantic import BeforeValidator

from potstill.config.sections import (
    BeforeConfig,
    CacheConfig,
    CompressConfig,
    DataConfig,
    LossConfig,
    ModelConfig,
    OptimConfig,
    RayConfig,
    ScheduleConfig,
    Section,
    SpotsConfig,
    SweepConfig,
    TeacherConfig,
)
from potstill.config.values import Natural, duration, several, text
from potstill.ranges import Count, NonNegative, Positive


class Config(Section):
    """One experiment, complete."""

    kind: Literal["distill", "train"] = "distill"
    """`distill`: a teacher teaches a student; `train`: the student learns from the labels alone."""
    data: DataConfig = DataConfig()
    """What is learned from."""
    teacher: TeacherConfig | None = None
    """The net that teaches."""
    student: ModelConfig
    """The net that learns."""
    method: str | None = "kd"
    """Published methods joined by +; brings their losses. null: `losses` says it all."""
    losses: dict[str, LossConfig] = {}  # noqa: RUF012 - pydantic copies it
    """The losses, by name."""
    spots: SpotsConfig | None = None
    """Where to distil, decided for each sample: `adaptive`, or a baseline; null: everywhere."""
    optim: OptimConfig = OptimConfig()
    """The optimizer."""
    schedule: ScheduleConfig = ScheduleConfig()
    """The learning rate over the training."""
    epochs: Count = 30
    """Passes over the training data."""
    seed: Natural = 0
    """Of the first run: weights, order and views follow from it."""
    seeds: Count = 1
    """How many runs, with seeds seed, seed + 1 ...; results are mean ± standard deviation."""
    together: Count = 1
    """How many of them at once, on one pass of the teacher; above 1 all see the pictures in the order of the first seed."""
    control: bool = True
    """Also train the student alone, with the same budget."""
    precision: Annotated[Literal["auto", "32", "bf16", "16"], BeforeValidator(text)] = "auto"
    """Of the arithmetic; auto: bf16 where the device is fast at it, else 32."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda`, `mps`."""
    devices: Count = 1
    """How many devices of this machine; torchrun and Slurm say it themselves."""
    nodes: Count = 1
    """How many machines; their processes are started by torchrun or Slurm, which say it themselves, or by Ray."""
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    """Of several processes; `ddp`, which `auto` is: each holds whole nets; `fsdp`: each holds a part of them, for larger ones."""
    launcher: Literal["ray"] | None = None
    """`ray`: a Ray cluster starts devices * nodes processes; null: this command, torchrun or Slurm."""
    ray: RayConfig = RayConfig()
    """Where `launcher: ray` starts processes, and what each of them has."""
    compile: Literal["auto"] | bool = False
    """Compile the nets, each proved equal to eager first; `auto`: where the run is long enough, and it is faster."""
    keep_memory: bool = True
    """On a CPU under glibc: keep freed memory for the next step instead of giving it back to the system; faster."""
    cache: CacheConfig = CacheConfig(on=False)
    """Keep what the teacher says of the training pictures; `true`, or its settings."""
    clip: Positive | None = None
    """Largest norm of the gradient; null: as it is."""
    accumulate: Count = 1
    """Parts into which a batch is cut to save memory."""
    checkpoint_activations: bool = False
    """Compute the student's blocks again in the backward pass to save memory: slower (on a CPU twice), the same numbers."""
    early_stop: Count | None = None
    """Stop after so many epochs without a better validation; null: never."""
    save_every: NonNegative = 60.0
    """Seconds between checkpoints inside an epoch."""
    save_steps: Count | None = None
    """Steps between checkpoints; null: by time alone."""
    compress: CompressConfig | None = None
    """What `potstill compress` makes of the student where it is not told otherwise."""
    sweep: SweepConfig | None = None
    """What `potstill sweep` searches where it is not told otherwise."""
    out: str = "runs"
    """The folder in which run directories are made."""
    name: str | None = None
    """Of the run directory; null: made of time, method, student, data and seed."""
    track: Annotated[list[Literal["tensorboard"]], BeforeValidator(several)] = []  # noqa: RUF012 - likewise
    """Where else metrics go: `tensorboard`, by default where it is installed."""
    allow_weak_teacher: bool = False
    """Go on although the teacher is no better than chance."""
    trust_code: bool = False
    """Run the code (FILE.py, module) that the student.json of a run directory names; for runs that you know."""
    time_limit: Annotated[str, BeforeValidator(duration)] | None = None
    """End the training in time: 90s, 30m, 2h, 1h30m; null: never."""

    @property
    def before(self) -> dict[str, BeforeConfig]:
        """The stages before the main one, by the names of their losses, in order."""
        return {name: loss.before for name, loss in self.losses.items() if loss.before and self.kind == "distill"}

    @property
    def main_epochs(self) -> int:
        """The epochs of the main stage: those that no other stage of the student takes."""
        return self.epochs - sum(b.epochs(self.epochs) for b in self.before.values() if b.trains == "student")

    def order(self, seed: int) -> int:
        """The seed of the order in which the pictures come to the student of ``seed``."""
        return self.data.order if self.data.order is not None else self.seed if self.together > 1 else seed

    @property
    def label(self) -> str:
        """What the run is called: the method, or its losses."""
        return self.method or "+".join(name for name in self.losses if name != "ce") or "ce"
