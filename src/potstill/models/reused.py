"""A student that answers through another net's classifier: its body, a projector, that classifier. One plain module."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from potstill.errors import ModelError


@dataclass(frozen=True)
class Head:
    """How such a student is made of its body; plain numbers and paths.

    Attributes:
        at: the layer of the body whose map is read.
        own: the body's own classifier, which is left out; None where it has none.
        map: shape of the map, (c, h, w); tokens (N, D) are put on this grid.
        middle, channels: channels inside the projector, and of the map that the classifier was made for.
        size: resolution at which the projector runs.
        relu: whether the projector ends in a ReLU.
        classes: how many.
    """

    at: str
    own: str | None
    map: tuple[int, int, int]
    middle: int
    channels: int
    size: tuple[int, int]
    relu: bool
    classes: int

    def to_json(self) -> dict[str, Any]:
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_json(cls, value: Any) -> Head:
        """The record in a student.json.

        Raises:
            ModelError: it is none.
        """
        kinds: dict[str, Any] = {
            "at": str,
            "own": str | None,
            "map": list,
            "middle": int,
            "channels": int,
            "size": list,
        }
        kinds |= {"relu": bool, "classes": int}
        fits = isinstance(value, dict) and value.keys() == kinds.keys()
        fits = fits and all(isinstance(value[k], kind) for k, kind in kinds.items())
        numbers = [*value["map"], *value["size"], value["middle"], value["channels"], value["classes"]] if fits else []
        if len(numbers) != 8 or len(value["size"]) != 2 or not all(type(n) is int and 0 < n < 1 << 20 for n in numbers):
            raise ModelError("its head is damaged: expected places, shapes and numbers", hint="copy it again")
        plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in value.items()}
        return cls(**plain)


class Reused(nn.Module):
    """The delivered student of SimKD (Chen et al., CVPR 2022, arXiv 2203.14001): body, projector, average, classifier.

    Args:
        body: the student; its own classifier is taken out of it.
        head: what stands in its place, with fresh weights.

    Raises:
        ModelError: the body has no such layers.
    """

    def __init__(self, body: nn.Module, head: Head) -> None:
        super().__init__()
        c, k, C = head.map[0], head.middle, head.channels
        self.body, self.head = body, head
        self.projector = nn.Sequential(
            *(nn.Conv2d(c, k, 1, bias=False), nn.BatchNorm2d(k), nn.ReLU()),
            *(nn.Conv2d(k, k, 3, padding=1, bias=False), nn.BatchNorm2d(k), nn.ReLU()),
            *(nn.Conv2d(k, C, 1, bias=False), nn.BatchNorm2d(C), nn.ReLU() if head.relu else nn.Identity()),
        )
        self.classifier = nn.Linear(C, head.classes)
        try:
            body.get_submodule(self._path)
            if head.own:
                parent, _, name = head.own.rpartition(".")
                body.get_submodule(head.own)
                setattr(body.get_submodule(parent), name, nn.Identity())
        except AttributeError as e:
            raise ModelError(f"its head does not fit {type(body).__name__}: {e}", hint="copy student.json again") from e
        stages = getattr(body, "stages", None)
        if isinstance(stages, tuple):
            self.stages = tuple(f"body.{path}" for path in stages)

    @property
    def _path(self) -> str:
        return self.head.at.removesuffix("@in")

    def forward(self, x: Tensor) -> Tensor:
        """Pictures (B, C, H, W) to logits (B, classes)."""
        heard: list[Any] = []
        layer = self.body.get_submodule(self._path)
        hook = (
            layer.register_forward_pre_hook(lambda module, args: heard.append(args[0]))
            if self.head.at.endswith("@in")
            else layer.register_forward_hook(lambda module, args, output: heard.append(output))
        )
        try:
            self.body(x)
        finally:
            hook.remove()
        f = heard[0] if isinstance(heard[0], Tensor) else heard[0][0]
        if f.ndim == 3:
            _, h, w = self.head.map
            f = f[:, -h * w :].transpose(1, 2).unflatten(2, (h, w))
        if f.shape[2:] != self.head.size:
            larger = f.shape[2] >= self.head.size[0] and f.shape[3] >= self.head.size[1]
            f = (
                F.adaptive_avg_pool2d(f, self.head.size)
                if larger
                else F.interpolate(f, self.head.size, mode="bilinear")
            )
        logits: Tensor = self.classifier(self.projector(f).mean((2, 3)))
        return logits
