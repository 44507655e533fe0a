"""Quantization of an ONNX model without training: static, weights only, bf16."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from potstill.compress.extra import need, quietly
from potstill.compress.formats import layer_nodes
from potstill.errors import ConfigError, did_you_mean

QUANTIZED = (
    "Conv",
    "Gemm",
    "MatMul",
    "Add",
    "MaxPool",
    "GlobalAveragePool",
    "Concat",
    "Relu",
    "Clip",
    "Reshape",
    "Flatten",
)
"""Operations that run in int8. Not the arithmetic of the preprocessing, nor averages by ReduceMean: they stay float."""

BATCH = 64


def static(
    model: Any,
    pictures: Tensor,
    *,
    per_channel: bool = True,
    keep: Sequence[str] = (),
    target: str = "x86",
) -> Any:
    """int8 by ONNX Runtime: weights and activations, with QuantizeLinear / DequantizeLinear pairs that its kernels fuse.

    Activations are uint8 and weights int8 (U8S8) for x86: S8S8 is nearly three times as slow there, and slower than float.
    For ARM both are int8.

    Args:
        model: float, of :func:`potstill.compress.formats.onnx_model`; not changed.
        pictures: to find the ranges of activations with, (n, C, H, W), in [0, 1].
        per_channel: a scale for each output channel of a layer's weights, or one for all.
        keep: paths of layers that stay float.
        target: the processor that it shall run on, ``x86`` or ``arm``; not the one that quantizes.
    """
    tools, preparing = need("onnxruntime.quantization"), need("onnxruntime.quantization.shape_inference")
    onnx = need("onnx")
    if target not in ("x86", "arm"):
        raise ConfigError(f"target must be x86 or arm, got {target!r}.{did_you_mean(target, ('x86', 'arm'))}")
    aside = [node.name for path, node in layer_nodes(model) if path in checked_paths(model, keep)]

    class Reader(tools.CalibrationDataReader):  # type: ignore[name-defined]
        def __init__(self) -> None:
            self.batches: Iterator[Tensor] = iter(pictures.split(BATCH))

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self.batches, None)
            return None if batch is None else {"pictures": batch.numpy()}

    with tempfile.TemporaryDirectory(prefix="potstill-") as folder, quietly():
        raw, ready, made = (str(Path(folder) / name) for name in ("raw.onnx", "ready.onnx", "int8.onnx"))
        onnx.save(model, raw)
        preparing.quant_pre_process(raw, ready, skip_optimization=True, skip_symbolic_shape=True)
        tools.quantize_static(
            ready,
            made,
            Reader(),
            quant_format=tools.QuantFormat.QDQ,
            op_types_to_quantize=list(QUANTIZED),
            per_channel=per_channel,
            activation_type=tools.QuantType.QUInt8 if target == "x86" else tools.QuantType.QInt8,
            weight_type=tools.QuantType.QInt8,
            nodes_to_exclude=aside,
            calibrate_method=tools.CalibrationMethod.MinMax,
        )
        result = onnx.load(made)
    del result.graph.value_info[:]
    used = [o for o in result.opset_import if o.domain in {n.domain for n in result.graph.node} or not o.domain]
    del result.opset_import[:]
    result.opset_import.extend(used)
    return result


def weights_only(model: Any, bits: int = 8, *, per_channel: bool = True, keep: Sequence[str] = ()) -> Any:
    """The weights in 8 or 4 bits, the arithmetic in float: a smaller file that is not faster.

    Each layer's weights become :math:`s_c\\,q`, :math:`|q| \\le 2^{b-1} - 1`, with each output channel's scale from its
    largest weight. 4 bits are packed, two in a byte.
    """
    onnx = need("onnx")
    if bits not in (4, 8):
        raise ConfigError(f"weights can have 8 or 4 bits, got {bits}")
    model, left = copy.deepcopy(model), checked_paths(model, keep)
    tensors = {i.name: i for i in model.graph.initializer}
    kind = onnx.TensorProto.INT8 if bits == 8 else onnx.TensorProto.INT4
    for path, node in list(layer_nodes(model)):
        name = node.input[1]
        if path in left or name not in tensors:
            continue
        w = onnx.numpy_helper.to_array(tensors[name])
        axis = out_axis(node, w)
        q, scale = rounded(w, bits, axis if per_channel else None)
        made = onnx.helper.make_tensor(f"{name}.q", kind, list(w.shape), packed(q, bits), raw=True)
        scales = onnx.numpy_helper.from_array(scale.reshape(-1) if per_channel else scale.reshape(()), f"{name}.scale")
        model.graph.initializer.extend([made, scales])
        model.graph.initializer.remove(tensors.pop(name))
        back = onnx.helper.make_node(
            "DequantizeLinear",
            [f"{name}.q", f"{name}.scale"],
            [name],
            name=f"{path}.dequantize",
            **({"axis": axis} if per_channel else {}),
        )
        model.graph.node.insert(0, back)
    return model


def bf16(model: Any) -> Any:
    """The weights as bfloat16, the arithmetic in float: half the file, not faster."""
    onnx = need("onnx")
    model = copy.deepcopy(model)
    tensors = {i.name: i for i in model.graph.initializer}
    for path, node in list(layer_nodes(model)):
        name = node.input[1]
        if name not in tensors:
            continue
        w = onnx.numpy_helper.to_array(tensors[name])
        raw = torch.from_numpy(w.copy()).bfloat16().view(torch.int16).numpy().tobytes()
        made = onnx.helper.make_tensor(f"{name}.bf16", onnx.TensorProto.BFLOAT16, list(w.shape), raw, raw=True)
        model.graph.initializer.append(made)
        model.graph.initializer.remove(tensors.pop(name))
        model.graph.node.insert(
            0, onnx.helper.make_node("Cast", [f"{name}.bf16"], [name], name=f"{path}.cast", to=onnx.TensorProto.FLOAT)
        )
    return model


def rounded(w: np.ndarray, bits: int, axis: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Whole numbers and their scale, symmetric round 0; one scale for each place on ``axis``."""
    rest = tuple(i for i in range(w.ndim) if i != axis)
    top = 2 ** (bits - 1) - 1
    scale = np.maximum(np.abs(w).max(rest, keepdims=True), np.finfo(np.float32).tiny * top) / top
    return np.clip(np.rint(w / scale), -top, top), scale.astype(np.float32)


def packed(q: np.ndarray, bits: int) -> bytes:
    """Whole numbers as ONNX keeps them: a byte each, or with 4 bits two in a byte, the first one in its lower half."""
    flat = q.astype(np.int8).flatten()
    if bits == 8:
        return flat.tobytes()
    low, high = np.append(flat, np.zeros(len(flat) % 2, np.int8)).view(np.uint8).reshape(-1, 2).T & 0xF
    return (low | high << 4).astype(np.uint8).tobytes()


def out_axis(node: Any, w: np.ndarray) -> int:
    """The axis of a layer's output channels among those of its weights."""
    if node.op_type == "MatMul":
        return w.ndim - 1
    if node.op_type == "Gemm":
        return 0 if any(a.name == "transB" and a.i for a in node.attribute) else 1
    return 1 if node.op_type == "ConvTranspose" else 0


def checked_paths(model: Any, keep: Sequence[str]) -> set[str]:
    """``keep``, if all are layers with weights.

    Raises:
        ConfigError: one is not; names the nearest.
    """
    known = [path for path, _ in layer_nodes(model)]
    for path in keep:
        if path not in known:
            raise ConfigError(
                f"no layer {path!r} has weights to quantize.{did_you_mean(path, known)} Known: {', '.join(known[:12])}"
            )
    return set(keep)
