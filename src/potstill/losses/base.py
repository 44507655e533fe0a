"""The contract of a loss."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor, nn

from potstill.types import Batch, Kept


class Loss(nn.Module):
    """Compares a student with a teacher at one spot and gives one number per sample.

    A loss owns what it needs: adapters are its parameters, memories are its buffers. It never knows which nets it
    compares, which layers, or with what weight: a :class:`potstill.schemes.Link` does. Rules that
    ``tests/losses/test_every_loss.py`` holds every loss to:

    * the result has shape (B,), is finite, and its mean over the batch is the published loss;
    * gradients reach the student and the loss's own parameters, never the teacher, and inputs are not changed;
    * batches of one and two, all-zero and identical vectors, two classes and autocast give finite values and gradients;
    * a class is final: to vary a loss, wrap it or give it a setting.

    Attributes:
        couples: True where the rows of the result have no meaning one by one (the value couples the batch and is
            spread evenly over it), so that per-sample weights only scale the whole.
        second_view: what it does with a second view of the samples, where a batch brings one: ``pair``: it is called once
            with lists of both, [first, second]; ``sum``: on each, and both are added, where another loss asks for pairs;
            None: it reads the first.
        packs: how a cache keeps what :meth:`reduce` gives: its values; values that may all have the other sign
            (``directions``); of each whether it is above 0 (``signs``); None: it keeps what the teacher says.
        reduce_by: names of the attributes that :meth:`reduce` reads. By these, and its code, caches are told apart. None: by
            all that the loss holds and does not train.
    """

    couples: bool = False
    second_view: Literal["pair", "sum"] | None = None
    packs: Literal["values", "directions", "signs"] | None = None
    reduce_by: tuple[str, ...] | None = None

    def forward(self, s: Tensor, t: Tensor, batch: Batch | None = None) -> Tensor:
        """The loss of each sample, (B,).

        Args:
            s: what the student says at the spot, (B, ...); a list where the link names several spots.
            t: what the teacher says there, detached; the same form as ``s``.
            batch: labels and ids, for a loss that reads them.
        """
        raise NotImplementedError

    def reduce(self, t: Any) -> Kept:
        """All that the loss reads of ``t``, (B, ...) each; it takes that in the place of ``t`` and gives the same rows.

        By nothing that is trained, and by no sample but its own: what a cache keeps serves other batches, epochs and runs.
        """
        return Kept([t] if isinstance(t, Tensor) else t)

    def extra_repr(self) -> str:
        return ", ".join(
            f"{k}={v}"
            for k, v in vars(self).items()
            if k not in ("training", "packs") and isinstance(v, int | float | str)
        )
