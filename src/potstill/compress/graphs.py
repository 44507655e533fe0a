"""Nets with quantization in their graph, by PT2E of torchao: fake-quantized for training, then converted.

BatchNorm is folded before anything is quantized, so that a training changes the very numbers that are stored, and no running
statistics get between it and the converted net.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor, fx, nn

from potstill.compress.extra import need, quietly
from potstill.compress.program import capture
from potstill.errors import ConfigError, did_you_mean
from potstill.types import Shape

aten = torch.ops.aten
LAYERS = {
    aten.conv1d.default,
    aten.conv2d.default,
    aten.conv_transpose2d.input,
    aten.linear.default,
}
ACTIVATIONS = {aten.relu.default, aten.relu_.default, aten.hardtanh.default, aten.hardtanh_.default, aten.clamp.default}
ACTIVATIONS |= {aten.relu6.default} if hasattr(aten.relu6, "default") else set()
SUMS = {aten.add.Tensor, aten.add_.Tensor}
SAME_RANGE = {aten.max_pool2d.default, aten.flatten.using_ints, aten.view.default, aten.reshape.default}


@cache
def tools() -> Any:
    """torchao's PT2E with our fake quantizer and quantizer."""
    pt2e, steps = need("torchao.quantization.pt2e"), need("torchao.quantization.pt2e.quantize_pt2e")
    base = need("torchao.quantization.pt2e.quantizer")

    class Fake(pt2e.FusedMovingAvgObsFakeQuantize):  # type: ignore[name-defined]
        """Converts with the scale that it trained with. Torchao up to 0.18 computes another one (its issue 2138, mended by its
        pull request 4824): 1.4 to 2.9 points of accuracy at 4 bits."""

        def calculate_qparams(self) -> tuple[Tensor, Tensor]:
            return self.scale, self.zero_point

    class Quantizer(base.Quantizer):  # type: ignore[name-defined]
        """Convolutions and linear layers with what follows them, and sums: what QLinearConv and QLinearAdd run in integers."""

        def __init__(self, bits: int, per_channel: bool, keep: Collection[str], signed: bool) -> None:
            super().__init__()
            self.keep = set(keep)
            top = 2 ** (bits - 1) - 1
            observer = pt2e.MovingAveragePerChannelMinMaxObserver if per_channel else pt2e.MovingAverageMinMaxObserver
            self.weight = base.QuantizationSpec(
                torch.int8,
                Fake.with_args(observer=observer, eps=2**-20, averaging_constant=1.0),
                -top,
                top,
                torch.per_channel_symmetric if per_channel else torch.per_tensor_symmetric,
                0 if per_channel else None,
            )
            low, high = (-128, 127) if signed else (0, 255)
            self.activation = base.QuantizationSpec(
                torch.int8 if signed else torch.uint8,
                Fake.with_args(observer=pt2e.MovingAverageMinMaxObserver, eps=2**-20, averaging_constant=0.05),
                low,
                high,
                torch.per_tensor_affine,
            )

        def annotate(self, model: fx.GraphModule) -> fx.GraphModule:
            for node in model.graph.nodes:
                if node.target in LAYERS and layer_of(node) not in self.keep:
                    self._mark(node, {node.args[0]: self.activation, node.args[1]: self.weight})
                elif node.target in SUMS and all(isinstance(a, fx.Node) and _floats(a) for a in node.args[:2]):
                    self._mark(node, dict.fromkeys(node.args[:2], self.activation))
            for node in model.graph.nodes:
                before = node.args[0] if node.args else None
                if node.target in SAME_RANGE and isinstance(before, fx.Node) and _quantized(before):
                    shared = base.SharedQuantizationSpec((before, node))
                    node.meta["quantization_annotation"] = base.QuantizationAnnotation(
                        {before: self.activation}, shared, _annotated=True
                    )
            return model

        def _mark(self, node: fx.Node, inputs: dict[Any, Any]) -> None:
            users = list(node.users)
            fused = len(users) == 1 and users[0].target in ACTIVATIONS
            own = base.QuantizationAnnotation(inputs, None if fused else self.activation, _annotated=True)
            node.meta["quantization_annotation"] = own
            if fused:
                users[0].meta["quantization_annotation"] = base.QuantizationAnnotation(
                    {}, self.activation, _annotated=True
                )

        def validate(self, model: fx.GraphModule) -> None:
            pass

    def _quantized(node: fx.Node) -> bool:
        said = node.meta.get("quantization_annotation")
        return said is not None and said.output_qspec is not None

    Quantizer.Fake = Fake
    return Quantizer, steps.prepare_pt2e, steps.convert_pt2e


def _floats(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.is_floating_point() and value.ndim > 1


def layer_of(node: fx.Node) -> str:
    """The path of the module that a node of a captured net belongs to."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    return str(stack[-1][0]).removeprefix("net.") if stack else ""


def prepared(
    whole: nn.Module,
    shape: Shape,
    *,
    bits: int = 8,
    per_channel: bool = True,
    keep: Collection[str] = (),
    signed: bool = False,
) -> fx.GraphModule:
    """A net with its BatchNorm folded and fake quantizers in it, which can be calibrated and trained.

    Args:
        whole: in eval mode: pictures (B, C, H, W) -> logits.
        shape: of a picture.
        bits: of the weights, 2 to 8; activations have 8.
        per_channel: a scale for each output channel of the weights.
        keep: paths of layers that stay float.
        signed: activations in int8 instead of uint8; ExecuTorch wants that, ONNX Runtime on x86 the reverse.

    Raises:
        ConfigError: ``bits`` out of range, or a layer to keep that is none.
        ModelError: the net cannot be captured.
        MachineError: torchao is not installed.
    """
    if not 2 <= bits <= 8:
        raise ConfigError(f"weights can have 2 to 8 bits, got {bits}")
    quantizer, prepare, _ = tools()
    program = capture(whole, shape)
    with quietly():
        graph = program.module(check_guards=False)
        known = [layer_of(n) for n in graph.graph.nodes if n.target in LAYERS]
        for path in keep:
            if path not in known:
                raise ConfigError(f"no layer {path!r} has weights to quantize.{did_you_mean(path, known)}")
        made: fx.GraphModule = prepare(graph, quantizer(bits, per_channel, keep, signed))
    for parameter in made.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    return made


def fakes(graph: nn.Module) -> Iterator[Any]:
    """The fake quantizers of a net."""
    kind = tools()[0].Fake
    return (m for m in graph.modules() if isinstance(m, kind))


@torch.no_grad()
def calibrate(graph: fx.GraphModule, pictures: Tensor, batch: int = 64) -> None:
    """Find the ranges of activations with these pictures, and freeze them; those of weights follow the weights on."""
    for fake in fakes(graph):
        fake.enable_observer()
        fake.enable_fake_quant(False)
    for part in pictures.split(batch):
        graph(part)
    for fake in fakes(graph):
        # the fused kernel leaves scales as they were made, uninitialised, while it only observes
        scale, zero = fake.activation_post_process.calculate_qparams()
        fake.scale.resize_(scale.shape).copy_(scale)
        fake.zero_point.resize_(zero.shape).copy_(zero)
        fake.enable_fake_quant()
        fake.enable_observer(fake.dtype == torch.int8 and fake.quant_min == -fake.quant_max)


def convert(graph: fx.GraphModule, shape: Shape, *, dynamic: bool = True) -> torch.export.ExportedProgram:
    """The program with real integers, of a net that is calibrated; the net itself is used up."""
    for fake in fakes(graph):
        fake.disable_observer()  # else the conversion, or an evaluation, moves the ranges
    _, _, converted = tools()
    with quietly():
        integers = converted(graph)
    return capture(integers, shape, dynamic=dynamic)
