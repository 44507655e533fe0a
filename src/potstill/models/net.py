"""A net with what belongs to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from potstill.models.preprocess import Preprocess
from potstill.models.reused import Head
from potstill.models.surgery import Surgery

Facts = Mapping[str, int | None]
"""What the data say: ``num_classes`` and ``in_channels``; None where nobody knows yet."""


@dataclass
class Net:
    """A net with what belongs to it.

    Attributes:
        module: the user's own net, untouched.
        spec: what names its source, such as ``zoo:cnn``, ``net.py:Net`` or ``hf:microsoft/resnet-50``; a module given as
            an object has ``object:package.module.Class``, from which it cannot be built again.
        kwargs: what its factory was called with: together with ``spec`` enough to build it again, without weights.
        preprocess: what must stand in front of it; None where the source says nothing of it.
        classes: names of its classes, in the order of the logits, where the source has them.
        sha256: hash of the file that its weights came from.
        path: that file.
        in_channels: channels of the pictures that it is given.
        size: height and width of the pictures that it was made for.
        head: what stands in the place of its own classifier; None where that is its own.
        surgery: what was cut out of it since; None where it has the shape that its source builds.
        notices: what the user should know of how it came about.
    """

    module: nn.Module = field(repr=False)
    spec: str
    kwargs: dict[str, Any] = field(default_factory=dict)
    preprocess: Preprocess | None = None
    classes: list[str] | None = None
    sha256: str | None = None
    path: str | None = None
    in_channels: int | None = None
    size: tuple[int, int] | None = None
    head: Head | None = None
    surgery: Surgery | None = None
    notices: list[str] = field(default_factory=list)
