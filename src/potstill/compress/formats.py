"""Files for devices, from programs: ONNX, the archive of ``torch.export``, and ExecuTorch's ``.pte``."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from potstill.compress.extra import need, quietly
from potstill.errors import ConfigError, ModelError
from potstill.files import write_atomically
from potstill.models.weights import writing

OPSET = 21
"""Of ONNX: the first that quantizes to 4 bits and to 16; ONNX Runtime reads it since 1.20."""

OPSETS = range(18, 24)
KEY = "potstill"
"""Under which an artefact keeps what it says of itself, as JSON."""


def onnx_model(program: ExportedProgram, card: Mapping[str, Any], opset: int = OPSET) -> Any:
    """A program as an ``onnx.ModelProto``: BatchNorm folded, batch of any size, no paths of this machine in it.

    Nodes of layers keep the layer's path in their weight's name, ``net.layer1.0.conv1.weight``.

    Raises:
        MachineError: onnx, onnxscript or onnxslim are not installed.
        ConfigError: no such opset.
        ModelError: an operation of the net has no ONNX form.
    """
    onnx, slim = need("onnx"), need("onnxslim")
    need("onnxscript")
    if opset not in OPSETS:
        raise ConfigError(f"opset must be in {OPSETS[0]}..{OPSETS[-1]}, got {opset}")
    _forget_sources(program)
    try:
        with quietly():
            made = torch.onnx.export(
                program,
                (),
                dynamo=True,
                opset_version=opset,
                input_names=["pictures"],
                output_names=["logits"],
                verbose=False,
            )
            assert made is not None
            model = slim.slim(made.model_proto)
    except Exception as error:  # the exporter wraps what it meets in errors of its own, and those in others
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        lines = [line for line in str(cause).splitlines() if line.strip()] or [type(cause).__name__]
        raise ModelError(f"the net cannot become an ONNX file: {lines[0][:300]}", hint="--to pt2") from error
    model.producer_name, model.producer_version = "potstill", str(card["potstill"])
    model.doc_string = ""
    del model.graph.value_info[:]
    for value in (*model.graph.input, *model.graph.output):
        if value.type.tensor_type.shape.dim[0].dim_param:
            value.type.tensor_type.shape.dim[0].dim_param = "batch"
    for part in (model.graph, *model.graph.node, *model.graph.input, *model.graph.output, *model.graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""
    onnx.helper.set_model_props(model, {KEY: json.dumps(card, ensure_ascii=False)})
    return model


def write_onnx(model: Any, path: Path, card: Mapping[str, Any] | None = None) -> Path:
    """Write an ONNX model, atomically and in one file; ``card`` replaces what it says of itself."""
    if card is not None:
        del model.metadata_props[:]
        need("onnx").helper.set_model_props(model, {KEY: json.dumps(card, ensure_ascii=False)})
    return _write(path, model.SerializeToString())


def write_pt2(program: ExportedProgram, path: Path, card: Mapping[str, Any]) -> Path:
    """Write the archive of ``torch.export``: without its example input and without paths of this machine."""
    _forget_sources(program)
    program._example_inputs = None  # saved as a pickle, of no use to the file
    buffer = io.BytesIO()
    with quietly():
        torch.export.save(program, buffer, extra_files={f"{KEY}.json": json.dumps(card, ensure_ascii=False)})
    return _write(path, buffer.getvalue())


def write_pte(program: ExportedProgram, path: Path, card: Mapping[str, Any]) -> Path:
    """Write a program for ExecuTorch with XNNPACK kernels, for batches of one; its card lies beside it, in ``FILE.json``.

    A batch of any size runs wrongly above a bound of the runtime that is not the one asked for; so a file has one size.

    Raises:
        MachineError: executorch is not installed.
        ModelError: an operation of the net has no ExecuTorch form.
    """
    exir = need("executorch.exir")
    xnnpack = need("executorch.backends.xnnpack.partition.xnnpack_partitioner")
    _forget_sources(program)
    try:
        with quietly():
            lowered = exir.to_edge_transform_and_lower(program, partitioner=[xnnpack.XnnpackPartitioner()])
            content = lowered.to_executorch().buffer
    except Exception as error:
        raise ModelError(f"the net cannot become an ExecuTorch file: {str(error).splitlines()[0][:300]}") from error
    _write(path.with_name(path.name + ".json"), json.dumps(card, ensure_ascii=False, indent=1).encode())
    return _write(path, content)


def layer_nodes(model: Any) -> Iterator[tuple[str, Any]]:
    """The nodes of an ONNX model that have a layer's weights, with the layer's path: Conv, Gemm, MatMul."""
    weights = {i.name for i in model.graph.initializer}
    for node in model.graph.node:
        if (
            node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul")
            and len(node.input) > 1
            and node.input[1] in weights
        ):
            yield node.input[1].removeprefix("net.").removesuffix(".weight"), node


def _forget_sources(program: ExportedProgram) -> None:
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)


def _write(path: Path, content: bytes) -> Path:
    with writing(path):
        write_atomically(path, content)
    return path
