"""The stage that quantizes: after the training, or in a training in which the float teacher watches."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from torch import Tensor, fx

from potstill.adopt import class_order
from potstill.compress import aware, calibration, formats, graphs, posttrain
from potstill.compress.program import Whole, capture, card, picture_shape
from potstill.compress.sensitivity import Simulation
from potstill.compress.stage import Work
from potstill.errors import ConfigError, did_you_mean
from potstill.files import write_json
from potstill.models.net import Net
from potstill.taps import Tapped

Precision = Literal["int8", "int4", "int8-weights", "int4-weights", "bf16"]
PRECISIONS = get_args(Precision)
BLAMED = 256
"""Pictures that layers are blamed with."""


@dataclass(frozen=True)
class Quantize:
    """Fewer bits for weights and activations.

    Args:
        precision: ``int8``: weights and activations; ``int4``: weights of 4 bits, activations of 8 (in the file a weight takes
            a byte all the same, and it runs as fast as int8); ``int8-weights``, ``int4-weights``: a smaller file,
            float arithmetic, no speed; ``bf16``: weights as bfloat16, half the file.
        train: steps of quantization-aware training, with int8 and int4; 0: after the training only, which at 8 bits is enough
            for most nets.
        distil: the float teacher watches that training (QAD); else it learns from the labels (QAT).
        features: weight of matching the float student's features at the ends of its stages, in that training.
        labels: weight of the cross-entropy beside a teacher.
        temperature: of the distillation; 1 in the published recipes.
        lr: learning rate of that training.
        calibration: pictures to find ranges with, of every class alike, from the training data.
        per_channel: a scale for each output channel of a layer's weights.
        keep: paths of layers that stay float.
        mixed: let the layers that hurt most stay float too, the fewest for at most this share of changed answers; null: none.
        target: the processor: ``x86`` wants activations in uint8, ``arm`` (and ExecuTorch) in int8.
        seed: of the training and of the choice of pictures.
    """

    precision: Precision = "int8"
    train: int = 0
    distil: bool = True
    features: float = 0.0
    labels: float = 0.0
    temperature: float = 1.0
    lr: float = 5e-3
    calibration: int = 512
    per_channel: bool = True
    keep: tuple[str, ...] = ()
    mixed: float | None = None
    target: Literal["x86", "arm"] = "x86"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            guess = did_you_mean(self.precision, PRECISIONS)
            raise ConfigError(f"there is no precision {self.precision!r}.{guess} Known: {', '.join(PRECISIONS)}")
        if self.target not in ("x86", "arm"):
            raise ConfigError(
                f"target must be x86 or arm, got {self.target!r}.{did_you_mean(self.target, ('x86', 'arm'))}"
            )
        if self.train and self.precision not in ("int8", "int4"):
            raise ConfigError(f"quantization-aware training is for int8 and int4, not for {self.precision}")
        if (
            self.train < 0
            or self.lr <= 0
            or self.temperature <= 0
            or min(self.features, self.labels, self.mixed or 0) < 0
        ):
            raise ConfigError("train, features, labels and mixed must be 0 or more, lr and temperature above 0")

    @property
    def kind(self) -> str:
        return "quantize"

    @property
    def resumes(self) -> bool:
        return False

    @property
    def bits(self) -> int:
        return 4 if self.precision.startswith("int4") else 8

    @property
    def by_torch(self) -> bool:
        """Whether torchao makes the integers, and not ONNX Runtime."""
        return bool(self.train) or self.precision == "int4"

    def run(self, work: Work) -> dict[str, Any]:
        """Write ``quantized.onnx`` and ``quantized.json``; of nets that torchao quantizes ``quantized.pt2`` too, of others the
        ``float.onnx`` that they were."""
        net, kept = work.net, self.kept(work)
        said = card(net, self.precision)
        loss = None
        if self.by_torch:
            graph, loss = self.fake(work, kept, signed=self.target == "arm")
            program = graphs.convert(graph, picture_shape(net))
            formats.write_pt2(copy.deepcopy(program), work.folder / "quantized.pt2", said)
            model = formats.onnx_model(program, said)
        else:
            floats = formats.onnx_model(capture(Whole(net), picture_shape(net)), card(net))
            formats.write_onnx(floats, work.folder / "float.onnx")
            model = self.after(floats, work, kept)
        formats.write_onnx(model, work.folder / "quantized.onnx", said)
        result = {"settings": asdict(self), "kept_float": kept, "loss": loss, "notices": self.notices(kept)}
        write_json(work.folder / "quantized.json", result)
        return result

    def kept(self, work: Work) -> list[str]:
        """The layers that stay float: those asked for, and by ``mixed`` those that hurt."""
        kept = list(self.keep)
        if self.mixed is not None:
            seen = self.pictures(work)[:BLAMED]
            blamed = Simulation(work.net, seen, self.bits, self.per_channel).to_keep(self.mixed)
            kept += [path for path in blamed if path not in kept]
        return kept

    def pictures(self, work: Work) -> Tensor:
        """Those that are calibrated with."""
        data = work.ready.splits.train
        return calibration.pictures(data, min(self.calibration, len(data)) if self.calibration > 0 else 0, self.seed)

    def after(self, model: Any, work: Work, kept: Sequence[str]) -> Any:
        """A float ONNX model, quantized without training."""
        if self.precision == "bf16":
            return posttrain.bf16(model)
        if self.precision.endswith("-weights"):
            return posttrain.weights_only(model, self.bits, per_channel=self.per_channel, keep=kept)
        seen = self.pictures(work)
        return posttrain.static(model, seen, per_channel=self.per_channel, keep=kept, target=self.target)

    def fake(self, work: Work, kept: Sequence[str], signed: bool) -> tuple[fx.GraphModule, float | None]:
        """The net with fake quantizers, calibrated and, where asked for, trained; and the last loss."""
        net, shape = work.net, picture_shape(work.net)
        graph = graphs.prepared(
            Whole(net), shape, bits=self.bits, per_channel=self.per_channel, keep=kept, signed=signed
        )
        graphs.calibrate(graph, self.pictures(work))
        if not self.train:
            return graph, None
        features = None
        if self.features:
            features = aware.Features(graph, net, stages_of(net), self.features)
        tapped = Tapped(Whole(work.teacher), (), None, class_order(work.teacher, work.ready.splits)).eval()
        stream = work.ready.stream(self.seed)
        batches = (batch._replace(x=batch.x.cpu(), y=batch.y.cpu()) for batch in aware.endless(stream.epoch))
        loss = aware.train(
            graph,
            batches,
            self.train,
            (lambda x: tapped(x)["logits"]) if self.distil else None,
            features=features,
            lr=self.lr,
            temperature=self.temperature,
            labels=self.labels,
            step=lambda i, now: work.console.say(f"  quantization-aware step {i}/{self.train}: loss {now:.4f}"),
        )
        return graph, loss

    def notices(self, kept: Sequence[str]) -> list[str]:
        found = []
        if self.precision.endswith("-weights") or self.precision == "bf16":
            found.append(f"{self.precision} makes the file smaller; nothing runs faster for it")
        if self.precision == "int4":
            found.append("in ONNX a weight of 4 bits takes a byte beside integer activations: no smaller than int8")
        if kept:
            found.append(f"{len(kept)} layers stay float: {', '.join(kept)}")
        return found


def stages_of(net: Net) -> list[str]:
    """The ends of a net's stages.

    Raises:
        ConfigError: it does not say where they are.
    """
    stages = getattr(net.module, "stages", None)
    if not isinstance(stages, Sequence) or not stages:
        raise ConfigError(
            f"{type(net.module).__name__} does not say where its stages end, so there are no features to compare",
            hint="set module.stages = ('layer1', 'layer2'), or features=0",
        )
    return [str(s) for s in stages]
