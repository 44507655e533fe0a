"""Artefacts in their own runtimes: ``open_artefact("student.onnx").logits(pictures)``."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from potstill.compress import guards
from potstill.compress.extra import need, quietly
from potstill.compress.formats import KEY
from potstill.compress.program import Whole, picture_shape
from potstill.compress.timing import Latency, interleaved
from potstill.errors import DataError, ModelError
from potstill.models.net import Net


class Runs(ABC):
    """What maps pictures in [0, 1] to logits on the CPU, on one thread.

    Attributes:
        name: what to call it in tables.
        runtime: that it runs in.
        card: what it says of itself, see :func:`potstill.compress.program.card`; empty where it is not of potstill.
        bytes: size of its file.
    """

    name: str
    runtime: str
    card: Mapping[str, Any]
    bytes: int

    @abstractmethod
    def _run(self, pictures: Tensor) -> Tensor: ...

    @property
    def batch(self) -> int | None:
        """The only size of batch that it takes; None for any."""
        return None

    @property
    def classes(self) -> list[str] | None:
        return self.card.get("classes")

    @property
    def picture(self) -> tuple[int, ...] | None:
        """(C, H, W), where it says so."""
        return tuple(self.card["picture"]) if "picture" in self.card else None

    def logits(self, pictures: Tensor) -> Tensor:
        """Logits (B, classes), float32, of pictures (B, C, H, W), float32 in [0, 1], in any memory format.

        Raises:
            DataError: pictures of another shape, or outside [0, 1].
            ModelError: its runtime fails, or says something else than logits.
        """
        want = self.picture
        if pictures.ndim != 4 or (want and tuple(pictures.shape[1:]) != want):
            shape = "x".join(map(str, want)) if want else "CxHxW"
            raise DataError(f"{self.name} takes pictures (B, {shape}), got {tuple(pictures.shape)}")
        x = pictures.float().contiguous()
        if x.numel() and not (x.min() >= 0 and x.max() <= 1):
            raise DataError(f"{self.name} takes pictures in [0, 1], got values from {x.min():.3g} to {x.max():.3g}")
        try:
            said = torch.cat([self._run(part) for part in x.split(self.batch or 256)])
        except RuntimeError as error:  # torch's, ExecuTorch's
            raise self._failed(error) from error
        except Exception as error:
            if not type(error).__module__.startswith("onnxruntime"):
                raise
            raise self._failed(error) from error
        if said.ndim != 2 or len(said) != len(x):
            raise ModelError(f"{self.name} must say logits ({len(x)}, classes), got {tuple(said.shape)}")
        return said

    def _failed(self, error: Exception) -> ModelError:
        return ModelError(f"{self.name} fails in {self.runtime}: {(str(error).splitlines() or ['?'])[0][:300]}")


class EagerNet(Runs):
    """A net of torch as it is: what artefacts are compared with. ``bytes`` are those of its weights."""

    runtime = "torch"

    def __init__(self, net: Net, name: str = "float net") -> None:
        self.name, self.whole = name, Whole(net)
        self.card = {"classes": net.classes, "picture": list(picture_shape(net)), "precision": "float32"}
        self.bytes = sum(t.numel() * t.element_size() for t in self.whole.net.state_dict().values())

    @torch.no_grad()
    def _run(self, pictures: Tensor) -> Tensor:
        said: Tensor = self.whole(pictures)
        return said


class OnnxFile(Runs):
    """An ``.onnx`` file in ONNX Runtime, on one thread of the CPU."""

    runtime = "onnxruntime"

    def __init__(self, path: Path) -> None:
        self.name, self.bytes = path.name, path.stat().st_size
        model = guards.checked_onnx(path)
        said = {p.key: p.value for p in model.metadata_props}.get(KEY)
        self.card = guards.read_card(said, path) if said is not None else {}
        ort = need("onnxruntime")
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        if str(self.card.get("precision")).endswith("-weights"):  # unpack them once, not in every run
            options.add_session_config_entry("session.disable_quant_qdq", "1")
        try:
            self.session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # of a class of its own for each of its faults
            raise ModelError(f"ONNX Runtime does not take {path}: {str(error).splitlines()[0][:300]}") from error
        self.input = self.session.get_inputs()[0]

    @property
    def picture(self) -> tuple[int, ...] | None:
        sizes = self.input.shape[1:]
        return tuple(sizes) if all(isinstance(n, int) for n in sizes) else super().picture

    @property
    def batch(self) -> int | None:
        return self.input.shape[0] if isinstance(self.input.shape[0], int) else None

    def _run(self, pictures: Tensor) -> Tensor:
        return torch.from_numpy(np.array(self.session.run(None, {self.input.name: pictures.numpy()})[0]))


class Pt2File(Runs):
    """An archive of ``torch.export``, run by torch."""

    runtime = "torch.export"

    def __init__(self, path: Path) -> None:
        self.name, self.bytes = path.name, path.stat().st_size
        said = guards.checked_pt2(path)
        self.card = guards.read_card(json.dumps(said), path) if said else {}
        text = path.read_bytes()
        if b"quantized_decomposed" in text:
            need("torchao.quantization.pt2e.quantize_pt2e")  # has the operators
        try:
            with quietly():
                self.module = torch.export.load(str(path)).module()
        except Exception as error:  # whatever a damaged program makes the loader stumble over
            raise ModelError(f"{path} is damaged: {type(error).__name__}: {str(error)[:200]}") from error

    @torch.no_grad()
    def _run(self, pictures: Tensor) -> Tensor:
        said: Tensor = self.module(pictures)
        return said


class PteFile(Runs):
    """An ExecuTorch file in ExecuTorch's own runtime. It uses all cores: pin the process for a latency on one."""

    runtime = "executorch"

    def __init__(self, path: Path) -> None:
        self.name, self.bytes = path.name, path.stat().st_size
        self.card = guards.checked_pte(path)
        runtime = need("executorch.runtime")
        try:
            self.program = runtime.Runtime.get().load_program(path)
            self.method = self.program.load_method("forward")
        except Exception as error:
            raise ModelError(f"ExecuTorch does not take {path}: {str(error)[:200]}") from error

    @property
    def batch(self) -> int | None:
        return 1

    def _run(self, pictures: Tensor) -> Tensor:
        said: Tensor = self.method.execute([pictures.contiguous()])[0]
        return said.clone()  # the runtime's own memory, used again in the next run


FILES: dict[str, type[Any]] = {"onnx": OnnxFile, "pt2": Pt2File, "pte": PteFile}


def open_artefact(path: str | Path) -> Runs:
    """The artefact in a file, in its own runtime.

    Raises:
        ModelError: no such file, not an artefact, or a damaged one.
        RefusedError: it is too large, or opening it could run code or read other files.
        MachineError: its runtime is not installed.
    """
    file, kind = guards.kind_of(path)
    made: Runs = FILES[kind](file)
    return made


def latencies(runs: Sequence[Runs], *, repeats: int = 50, warmup: int = 5) -> list[Latency]:
    """Of one picture each, on one thread, taking turns.

    Raises:
        ModelError: of what shape its pictures are is not known.
    """
    calls = {}
    for i, run in enumerate(runs):
        if run.picture is None:
            raise ModelError(f"{run.name} does not say of what shape its pictures are")
        x = torch.rand(1, *run.picture, generator=torch.Generator().manual_seed(0))
        run.logits(x)
        calls[str(i)] = lambda run=run, x=x: run._run(x)
    return list(interleaved(calls, repeats=repeats, warmup=warmup).values())
