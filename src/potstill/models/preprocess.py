"""What stands in front of a net: pictures in [0, 1] become what this net was trained on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from potstill.errors import ModelError

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in grey (ITU-R BT.601), as Pillow's mode "L"."""


class Preprocess(nn.Module):
    r"""Channels, then size, then :math:`(x - \text{mean}) / \text{std}`; each only where there is something to do.

    It has no state: its buffers are not saved, so it never gets into a checkpoint of the net.

    Args:
        mean, std: of each channel that the net wants, or one number for all, in units of pictures in [0, 1].
        size: height and width that the net wants, or one number for both; None takes pictures as they come.
            Resizing is bilinear with antialiasing and does not keep the aspect.
        channels: how many channels the net wants: a grey picture is repeated, a colour picture becomes its luma.

    Shape: (B, C, H, W), float in [0, 1] -> (B, channels, height, width), float.

    Raises:
        ModelError: mean and std do not belong together, or a picture has channels that cannot be turned into the net's.
    """

    offset: Tensor | None
    scale: Tensor | None
    luma: Tensor

    def __init__(
        self,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        size: int | Sequence[int] | None = None,
        channels: int | None = None,
    ) -> None:
        super().__init__()
        self.mean = None if mean is None else tuple(float(v) for v in mean)
        self.std = None if std is None else tuple(float(v) for v in std)
        self.size = None if size is None else (size, size) if isinstance(size, int) else (size[0], size[1])
        self.channels = channels
        if any(type(n) is not int or n < 1 for n in (*(self.size or ()), *([] if channels is None else [channels]))):
            raise ModelError(f"size and channels must be positive whole numbers, got {size} and {channels}")
        if (self.mean is None) != (self.std is None) or len(self.mean or ()) != len(self.std or ()):
            raise ModelError(f"mean and std must be given together and for the same channels, got {mean} and {std}")
        if self.mean and channels and len(self.mean) not in (1, channels):
            raise ModelError(f"the net wants {channels} channels, but mean has {len(self.mean)} numbers")
        if not all(0 < s < math.inf for s in self.std or ()) or not all(map(math.isfinite, self.mean or ())):
            raise ModelError(f"every mean must be finite and every std above 0, got {mean} and {std}")
        idle = set(self.mean or ()) <= {0.0} and set(self.std or ()) <= {1.0}
        for name, values in (("offset", self.mean), ("scale", self.std)):
            buffer = None if idle or values is None else torch.tensor(values).view(-1, 1, 1)
            self.register_buffer(name, buffer, persistent=False)
        self.register_buffer("luma", torch.tensor(LUMA).view(-1, 1, 1), persistent=False)

    @classmethod
    def from_data(cls, mean: Sequence[float], std: Sequence[float], channels: int | None = None) -> Preprocess:
        """For a net that learns from these data, which have this mean and standard deviation in each channel.

        Where colour data meet a grey net, the luma of the means is the mean of the luma; the luma of the deviations
        is an upper bound of its deviation, near it because the colours of pictures go together.
        """
        if channels == 1 and len(mean) == 3:
            mean, std = ([sum(w * v for w, v in zip(LUMA, values, strict=True))] for values in (mean, std))
        return cls(mean, std, channels=channels)

    def with_data(self, mean: Sequence[float], std: Sequence[float]) -> Preprocess:
        """The same, normalised by the data's mean and standard deviation where the net has none of its own."""
        if self.mean is not None:
            return self
        of_data = self.from_data(mean, std, self.channels)
        return Preprocess(of_data.mean, of_data.std, self.size, self.channels)

    def forward(self, x: Tensor) -> Tensor:
        if self.channels is not None and x.shape[1] != self.channels:
            x = self.recoloured(x)
        if self.size is not None and x.shape[-2:] != self.size:
            x = F.interpolate(x, self.size, mode="bilinear", antialias=True)
        if self.offset is not None and self.scale is not None:
            x = (x - self.offset) / self.scale
        return x

    def recoloured(self, x: Tensor) -> Tensor:
        if x.shape[1] == 1 and self.channels is not None:
            return x.expand(-1, self.channels, -1, -1)
        if x.shape[1] == 3 and self.channels == 1:
            return (x * self.luma).sum(1, keepdim=True)
        raise ModelError(
            f"the net wants {self.channels} channels, the pictures have {x.shape[1]}: only grey and colour can be exchanged",
            hint="data of the right number of channels, or a net with in_channels",
        )

    def to_json(self) -> dict[str, Any]:
        """``{"mean": [..] | None, "std": [..] | None, "size": [h, w] | None, "channels": n | None}``."""
        lists = {
            k: None if v is None else list(v) for k, v in (("mean", self.mean), ("std", self.std), ("size", self.size))
        }
        return {**lists, "channels": self.channels}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Preprocess:
        """The inverse of :meth:`to_json`.

        Raises:
            ModelError: not the form that :meth:`to_json` gives.
        """
        try:
            return cls(**value)
        except (TypeError, ValueError, IndexError) as e:
            raise ModelError(f"this says nothing about preprocessing: {value!r} ({e})") from e

    def extra_repr(self) -> str:
        return ", ".join(f"{k}={v}" for k, v in self.to_json().items() if v is not None)
