"""The sections of a configuration: names, types, ranges and defaults of their settings. No torch."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, Strict, model_validator

from potstill.config.values import Natural, Numbers, amounts, seconds, spots
from potstill.ranges import Count, NonNegative, Positive, Share


class Section(BaseModel):
    """Settings that belong together. Unknown keys, wrong types and values out of range are refused; frozen once made."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        populate_by_name=True,
    )
    short: ClassVar[str | None] = None
    """The setting that a plain value means: ``teacher: zoo:resnet32x4`` is ``teacher.model``."""
    can_be_off: ClassVar[bool] = False
    """Whether ``false`` means that there is none."""

    @model_validator(mode="before")
    @classmethod
    def _from_short(cls, value: Any) -> Any:
        return value if cls.short is None or isinstance(value, dict | BaseModel) else {cls.short: value}

    @classmethod
    def __get_pydantic_json_schema__(cls, core: Any, handler: Any) -> Any:
        schema = handler(core)
        if cls.short is None:
            return schema
        shape = handler.resolve_ref_schema(schema)
        return {"anyOf": [{**shape["properties"][cls.short]}, schema]}


class AugmentConfig(Section):
    """How training pictures are varied. null: as the preset has it."""

    short = "preset"
    preset: Literal["auto", "none"] = "auto"
    """`auto` chooses by the data: digits are shifted by a pixel, others padded by an eighth, cropped and mirrored; `none`."""
    pad: Natural | None = None
    """Pixels of padding before a random crop of the old size."""
    flip: bool | None = None
    """Mirror left and right, half of the time."""
    colour: NonNegative | None = None
    """Strength of random brightness, contrast and saturation."""
    erase: Share | None = None
    """Share of the pictures in which a random rectangle is erased (arXiv 1708.04896)."""
    mixup: NonNegative | None = None
    """Alpha of mixup (arXiv 1710.09412); 0: off."""
    cutmix: NonNegative | None = None
    """Alpha of CutMix (arXiv 1905.04899); 0: off."""


class SecondConfig(AugmentConfig):
    """A second view of each training picture, for methods that compare two (mlkd). null: as the method was published."""

    short = "on"
    on: bool = True
    """Whether there is one."""


class DataConfig(Section):
    """What is learned from."""

    short = "source"
    source: str = "digits"
    """`digits`, `folder:PATH`, or another source of `potstill list data`."""
    size: Count | None = None
    """Side of the pictures in pixels; null: as they are."""
    channels: Literal[1, 3] | None = None
    """1 or 3; null: as they are."""
    val: Share = 0.1
    """Share of the training pictures held out for validation where the data bring none."""
    max_bad: Share = 0.01
    """Share of unreadable pictures that is skipped; more is an error."""
    labels: Count | None = None
    """How many training pictures keep their label, evenly over the classes; null: all."""
    limit: Count | None = None
    """How many training pictures are used; null: all."""
    batch: Count = 64
    """Pictures a step, over all devices."""
    order: Natural | None = None
    """Seed of the order in which training pictures come; null: each run's own."""
    workers: Natural = 0
    """Processes that read pictures."""
    download: bool = False
    """Whether a source may fetch what is not on this machine."""
    strict: bool = False
    """Whether doubtful data (equal pictures in train and test) are an error."""
    augment: AugmentConfig = AugmentConfig()
    """How training pictures are varied."""
    second: SecondConfig | None = None
    """A second view of each picture, for methods that compare two; null: as the method has it, false: none."""


class ModelConfig(Section):
    """A net: where it comes from and what pictures it takes."""

    short = "model"
    model: str
    """`zoo:NAME`, `timm:NAME`, `hf:REPO`, `torchvision:NAME`, `FILE.py:FUNCTION`, `module:function`, or a run directory."""
    weights: str | None = None
    """File of weights (.safetensors, or .pt with plain tensors)."""
    kwargs: dict[str, Any] = {}
    """Arguments for the function that makes the net."""
    partial: bool = False
    """Whether weights may fit only a part of the net."""
    mean: Numbers | None = None
    """Means by which it normalises pictures in [0, 1]; null: its own, or those of the data."""
    std: Numbers | None = None
    """Standard deviations by which it normalises; null: its own, or those of the data."""
    size: Count | None = None
    """Side to which pictures are resized for this net; null: as they come."""


class TeacherConfig(ModelConfig):
    """The net that teaches. One without weights is taught first."""

    epochs: Count | None = None
    """Passes over the data when it is taught first; null: as many as the student's."""
    speed: Literal["auto", "exact", "equal", "fast"] = "auto"
    """`auto`: channels-last, as the student; `exact`: as it was given, to the last bit; `equal` but for rounding, `fast` with
    bf16 too: each where measured to pay."""
    device: str | None = None
    """A device of its own, such as `cuda:1`, where the student fills the other; null: the student's."""


class WeightSchedule(Section):
    """A weight that changes during the training."""

    first: NonNegative = Field(alias="from")
    """The value up to `start`."""
    last: NonNegative = Field(alias="to")
    """The value from `end` on."""
    shape: Literal["linear", "cosine", "step"] = "linear"
    """`linear`; `cosine`, flat at both ends; `step`, the jump at `end`."""
    start: Share = 0.0
    """Share of the training at which the change begins."""
    end: Share = 1.0
    """Share of the training at which the change ends."""

    @model_validator(mode="after")
    def _forward(self) -> "WeightSchedule":
        if self.start >= self.end:
            raise ValueError("must start before it ends")
        return self


class BeforeConfig(Section):
    """A stage before the main one, in which a loss is trained first. false: none."""

    short, can_be_off = "share", True
    share: Annotated[float, Field(gt=0, lt=1)]
    """Share of the epochs; the student's stages together have the run's epochs, one that leaves it alone comes on top."""
    use: str | None = None
    """The loss of this stage; null: the loss itself, whose adapters go on into the main stage."""
    weight: Positive = 1.0
    """The weight of the loss in this stage."""
    trains: Literal["student", "adapters"] = "student"
    """`student`: the layers that the loss reaches, and its adapters; `adapters`: the parameters of the loss alone."""
    alone: bool = True
    """Whether the other losses wait (and the learning rate is constant), or are trained beside it."""
    lr: Positive = 1.0
    """The learning rate of this stage, as a share of optim.lr."""
    main_lr: Positive = 1.0
    """The learning rate of the main stage, as a share of optim.lr."""

    def epochs(self, total: int) -> int:
        """How many epochs of a run of ``total``."""
        return max(1, round(self.share * total))


class LossConfig(Section):
    """A loss: what it is, how much it counts, where it looks, and its own settings (`potstill show NAME`)."""

    model_config = ConfigDict(extra="allow")
    short = "weight"
    use: str
    """The method, or `./file.py:Class` for a loss of your own; by default the key."""
    weight: NonNegative | WeightSchedule = 1.0
    """Its share in the total: a number, or {from, to, shape, start, end}."""
    at: Annotated[Any, BeforeValidator(spots)] = None
    """The spot that it compares, [student's, teacher's], or a list; null: as published."""
    before: BeforeConfig | None = None
    """A stage before the main one, {share, use, weight, trains, alone, lr, main_lr}; false: none."""

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments of the loss class."""
        return dict(self.model_extra or {})


class SpotsConfig(Section):
    """Where to distil, decided for each sample and step (SAKD, arXiv 2205.02399). null: as with `authors`, else the paper's."""

    short = "rule"
    rule: Literal["adaptive", "always", "random", "anti", "none", "no_gradient"] = "adaptive"
    """`adaptive`: a policy decides; baselines: `always`, `random`, `anti` (the opposite), `none`, `no_gradient`."""
    authors: bool = False
    """Whether all that only the authors' code does is on: the settings below that say so."""
    share: Share | None = None
    """Probability of distilling under `random` [0.5]."""
    weight: NonNegative | WeightSchedule | None = None
    """beta_3, of the routing loss [1]."""
    temperature: Positive | WeightSchedule | None = None
    """Of the decisions; scales the policy's gradient [from 5 to 1; authors: 5]."""
    hidden: Natural | None = None
    """Width of a hidden layer of the policy [0: linear]."""
    initial_bias: NonNegative | None = None
    """Of the policy for the teacher at the start [0; authors: 10]."""
    bridges: Literal["plain", "norm", "norm+relu"] | None = None
    """What ends an adaptation layer between the nets [plain; authors: norm+relu]."""
    gamma: Positive | None = None
    """Factor of the routing loss where it is above the student's, divisor where below [1: never; authors: 2]."""
    hinge: bool | None = None
    """Whether half of the batch is forced to be distilled at the logits [false; authors: true]."""
    relation: Literal["masked", "subset"] | None = None
    """Whether a relational loss sees the whole batch or the chosen samples only [masked; authors: subset]."""
    teacher: Literal["frozen", "joint", "scratch"] = "frozen"
    """Whether the teacher is trained along: `joint` from its weights, `scratch` from new ones."""
    policy_lr: Positive = 0.5
    """Learning rate of policy and adaptation layers, as a share of optim.lr."""
    policy_decay: NonNegative = 1e-3
    """Decay of the weights of policy and adaptation layers."""


class OptimConfig(Section):
    """The optimizer: any class of torch.optim, with its other arguments as they are called there."""

    model_config = ConfigDict(extra="allow")
    short = "name"
    name: str = "sgd"
    """Class of torch.optim, in any case."""
    lr: Positive = 0.05
    """Learning rate; 0.001 for others than sgd."""
    weight_decay: NonNegative = 5e-4
    """Decay of the weights; 0.01 for adamw."""
    momentum: Annotated[float, Field(ge=0, lt=1)] | None = 0.9
    """Momentum; null for optimizers without it."""

    @property
    def args(self) -> dict[str, Any]:
        """The further arguments of the optimizer class."""
        return dict(self.model_extra or {})


class ScheduleConfig(Section):
    """The learning rate over the training."""

    model_config = ConfigDict(extra="allow")
    short = "name"
    name: str = "cosine"
    """`cosine` and `linear` (eta_min), `multistep` (milestones, gamma), `constant`, or a class of torch.optim.lr_scheduler."""
    warmup: NonNegative = 0.0
    """Epochs in which the learning rate grows linearly to its full value."""

    @property
    def args(self) -> dict[str, Any]:
        """The further arguments of the schedule."""
        return dict(self.model_extra or {})


class CacheConfig(Section):
    """Keep what the teacher says of the training pictures on disk, and read it instead of asking again."""

    short = "on"
    on: bool = True
    """Whether."""
    views: Count = 4
    """How many views of each picture the student is shown in turn; more vary more, and fill later."""
    dtype: Literal["float16", "float32", "int8", "topk"] = "float16"
    """How logits are packed: `int8` with a scale a picture, `topk` the 20 largest and the mass of the rest."""
    limit: Positive = 20.0
    """Gigabytes that the caches of a run may take; maps of large nets take hundreds, and are refused."""
    dir: str | None = None
    """Where; null: $POTSTILL_CACHE, or the user's cache folder."""


class CompressConfig(Section):
    """What `potstill compress` does with the student: stages in this order, each a plain value or a mapping of its settings."""

    prune: Share | dict[str, Any] | None = None
    """Share of the channels that go; or `{macs: 0.5}`, `{ratio: 0.5, importance: taylor, round_to: 16}` ..."""
    rounds: Count = 1
    """In how many steps to prune, each followed by a recovery."""
    lowrank: Share | dict[str, Any] | None = None
    """Share of the ranks that stays of factorised layers."""
    sparsify: Share | str | dict[str, Any] | None = None
    """Share of zeros, or a pattern: `"2:4"`."""
    recover: Natural | dict[str, Any] = 10
    """Epochs of distillation after each cut; or `{epochs: 10, method: dist}` ..."""
    quantize: str | dict[str, Any] | None = None
    """`int8`, `int4`, `int8-weights`, `int4-weights`, `bf16`; or `{precision: int8, train: 300}` ..."""
    export: str | list[str] | dict[str, Any] | None = None
    """`onnx`, `pt2`, `pte`, or several."""
    verify: bool | NonNegative | dict[str, Any] = True
    """Points of accuracy that an exported file may lose; true: one; false: nothing is run."""


class SweepConfig(Section):
    """What `potstill sweep` searches where its flags do not say otherwise."""

    trials: Count = 20
    """How many there are to be in all."""
    over: dict[str, Any] = {}
    """What is varied, by its key: a range, `losses.kd.temperature: 1..20`, or a list to choose from; nothing: what is usual."""
    against: Literal["parameters", "macs", "bytes", "latency"] | None = None
    """A second aim beside the accuracy on the validation data, for a front; null: none (`macs` where `prune` is varied)."""
    stop: bool = True
    """Whether a trial that is worse than the median of the others is stopped early; never with two aims."""
    recover: Natural | None = None
    """Epochs of distillation after a pruning; null: a fifth of the epochs."""
    workers: Count = 1
    """Processes that share the trials."""
    together: Count = 1
    """Trials that each of them trains at once, on one pass of the teacher, in the memory of so many students."""
    launcher: Literal["ray"] | None = None
    """`ray`: the workers are tasks on a Ray cluster (see `ray`); null: processes of this machine."""


class RayConfig(Section):
    """Where `launcher: ray` starts processes, and what each of them has."""

    address: str | None = None
    """`HOST:PORT`, `auto` (the cluster of this machine) or `local`; null: $RAY_ADDRESS, else `auto`, else `local`."""
    resources: Annotated[dict[str, NonNegative], BeforeValidator(amounts)] = {}
    """Of each process: `{cpu: 4, gpu: 1}` or `cpu=4,gpu=1`; by default one processor, and one GPU where the cluster has any."""
    failures: Natural = 3
    """How often a run whose process or machine died is gone on with from its checkpoint."""


SCHEDULES: dict[str, dict[str, Any]] = {
    "cosine": {"eta_min": NonNegative},
    "linear": {"eta_min": NonNegative},
    "multistep": {"milestones": Annotated[tuple[Positive, ...], Strict(False)], "gamma": Positive},
    "constant": {},
}
"""The schedules that have names here, with their arguments."""

__all__ = [
    "SCHEDULES",
    "AugmentConfig",
    "BeforeConfig",
    "CacheConfig",
    "CompressConfig",
    "DataConfig",
    "LossConfig",
    "ModelConfig",
    "OptimConfig",
    "RayConfig",
    "ScheduleConfig",
    "SecondConfig",
    "SpotsConfig",
    "SweepConfig",
]
__all__ += ["Section", "WeightSchedule", "seconds"]
