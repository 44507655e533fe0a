"""A net's classifier as losses use it: the last linear layer."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from potstill.errors import ModelError
from potstill.losses._relations import inner


class Linear(Protocol):
    """What a loss needs of a classifier: ``nn.Linear``, or a 1x1 convolution."""

    weight: Tensor
    bias: Tensor | None


def weights(head: Linear | None, width: int, whose: str, method: str) -> Tensor:
    """The matrix (classes, width) of a classifier.

    Raises:
        ModelError: there is none, or it does not read features of this width.
    """
    if head is None or head.weight.flatten(1).shape[1] != width:
        got = "none was found" if head is None else f"it reads {head.weight.flatten(1).shape[1]} numbers"
        raise ModelError(
            f"{method} needs the {whose}'s last layer to be linear and to read the {width} features of its spot, but {got}",
            hint="use fitnet or vid, which need no classifier",
        )
    return head.weight.flatten(1)


class LiveHead:
    """The classifier of a net that learns: what it is now, with gradients, without owning it (no module, no parameters)."""

    def __init__(self, head: Linear | None, width: int, whose: str, method: str) -> None:
        self.classes = len(weights(head, width, whose, method))
        assert head is not None
        self.head = head

    def weight(self, like: Tensor) -> Tensor:
        """(classes, width), float32, on the device of ``like``."""
        return self.head.weight.flatten(1).to(like.device, torch.float32)

    def bias(self, like: Tensor) -> Tensor | None:
        """(classes,), or None."""
        return None if self.head.bias is None else self.head.bias.to(like.device, torch.float32)


class FrozenHead(nn.Module):
    """A copy of a trained classifier as buffers: it is saved, and never trained."""

    weight: Tensor
    bias: Tensor

    def __init__(self, head: Linear | None, width: int, whose: str, method: str) -> None:
        super().__init__()
        weight = weights(head, width, whose, method).detach().float().clone()
        bias = getattr(head, "bias", None)
        self.register_buffer("weight", weight)
        self.register_buffer("bias", weight.new_zeros(len(weight)) if bias is None else bias.detach().float().clone())

    def forward(self, v: Tensor) -> Tensor:
        """Logits, (B, classes), of vectors (B, width), in float32."""
        return inner(v.float(), self.weight) + self.bias
