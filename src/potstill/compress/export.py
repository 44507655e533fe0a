"""The stage that writes files for devices, each of one program with its preprocessing, classes and licence inside."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from potstill.compress import formats, graphs, guards
from potstill.compress.program import Whole, capture, card, picture_shape
from potstill.compress.quantize import Quantize
from potstill.compress.runtimes import Pt2File
from potstill.compress.stage import Work
from potstill.config.stages import FORMATS
from potstill.errors import ConfigError, did_you_mean
from potstill.models.resolve import save_student


@dataclass(frozen=True)
class Export:
    """Write ``student.KIND``, and where a stage before quantized the net also ``student.PRECISION.KIND``; always
    ``student.safetensors``, the float student.

    Args:
        to: ``onnx``, ``pt2`` (torch.export), ``pte`` (ExecuTorch), or several of them.
        opset: of ONNX.
        licence: of the weights, as an SPDX name such as ``Apache-2.0``; recorded in the files.
    """

    to: str | Sequence[str] = "onnx"
    opset: int = formats.OPSET
    licence: str | None = None

    def __post_init__(self) -> None:
        for kind in self.kinds:
            if kind not in FORMATS:
                raise ConfigError(
                    f"there is no format {kind!r}.{did_you_mean(kind, FORMATS)} Known: {', '.join(FORMATS)}"
                )

    @property
    def kinds(self) -> list[str]:
        return self.to.split(",") if isinstance(self.to, str) else list(self.to)

    @property
    def kind(self) -> str:
        return "export"

    @property
    def resumes(self) -> bool:
        return False

    def run(self, work: Work) -> dict[str, Any]:
        net, folder, quantized = work.net, work.folder, work.last("quantize")
        if net.classes is None:
            net.classes = list(work.ready.splits.classes)
        save_student(folder, net)
        files = []
        for kind in self.kinds:
            files.append(self._float(kind, work, folder / f"student.{kind}"))
            if quantized is not None:
                files.append(self._quantized(kind, work, quantized))
        return {"files": {f.name: f.stat().st_size for f in files}}

    def _float(self, kind: str, work: Work, path: Path) -> Path:
        said, quantized = card(work.net, licence=self.licence), work.last("quantize")
        made = quantized / "float.onnx" if quantized else None
        if kind == "onnx" and made and made.exists() and self.opset == formats.OPSET:
            return formats.write_onnx(guards.checked_onnx(made), path, said)
        program = capture(Whole(work.net), picture_shape(work.net), dynamic=kind != "pte")
        return self._write(program, path, said)

    def _quantized(self, kind: str, work: Work, folder: Path) -> Path:
        how = Quantize(**json.loads((folder / "quantized.json").read_text())["settings"])
        kept = json.loads((folder / "quantized.json").read_text())["kept_float"]
        path = work.folder / f"student.{how.precision}.{kind}"
        said = card(work.net, how.precision, self.licence)
        if kind == "onnx":
            return formats.write_onnx(guards.checked_onnx(folder / "quantized.onnx"), path, said)
        if how.precision == "bf16" and kind == "pt2":
            return self._write(capture(Whole(work.net, torch.bfloat16), picture_shape(work.net)), path, said)
        if how.precision not in ("int8", "int4"):
            raise ConfigError(f"{how.precision} can be exported to onnx only, not to {kind}", hint="--quantize int8")
        if kind == "pte" and how.train and how.target != "arm":
            raise ConfigError("ExecuTorch wants activations in int8; this net was trained for uint8", hint="target=arm")
        if how.by_torch and (kind == "pt2" or how.target == "arm"):
            integers = Pt2File(folder / "quantized.pt2").module
            program = capture(integers, picture_shape(work.net), dynamic=kind != "pte")
        else:
            graph, _ = how.fake(work, kept, signed=kind == "pte")
            program = graphs.convert(graph, picture_shape(work.net), dynamic=kind != "pte")
        return self._write(program, path, said)

    def _write(self, program: torch.export.ExportedProgram, path: Path, said: dict[str, Any]) -> Path:
        if path.suffix == ".onnx":
            return formats.write_onnx(formats.onnx_model(program, said, self.opset), path)
        return (formats.write_pt2 if path.suffix == ".pt2" else formats.write_pte)(program, path, said)
