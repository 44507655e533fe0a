"""Factor transfer."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from potstill.errors import ModelError
from potstill.losses._maps import as_map, at_one_size, map_shape, smaller
from potstill.losses._paraphraser import Paraphraser, factors, layers
from potstill.losses._relations import unit
from potstill.losses.base import Loss
from potstill.ranges import Positive
from potstill.types import Batch, Shape


class FT(Loss):
    r"""Match the teacher's factors, which a paraphraser P has learned to say in fewer channels, by a translator's.

    .. math:: \ell_b = \frac1n \Big\| \frac{g(R(F^s_b))}{\|\cdot\|_2} - \frac{g(P(F^t_b))}{\|\cdot\|_2} \Big\|_1

    R, the translator, is trained; P is not, and stays in ``state_dict``. g is one of the two published forms: ``attention``:
    :math:`\mathrm{vec}(\mathrm{mean}_c f_c^2)` (RepDistiller), ``factor``: :math:`\mathrm{vec}(f)` (authors); n is its length.
    Where the resolutions differ, the larger factor is averaged to the smaller first.

    Args:
        s_shape, t_shape: filled in by probing.
        t_paraphraser: the one that ``_paraphraser.Paraphrase`` trained, as published; a random one where it is None.
        form: ``attention``: RepDistiller's, published weight 200; ``factor``: the authors', weight 500.
        rate: k, channels of a factor for one of the teacher's map; 0.5.
        batch_norm: BatchNorm in the translator: True in RepDistiller, False in the authors' code.

    Shape: ``s``, ``t``: maps (B, C, H, W) or tokens; with ``factor`` vectors too. Result: (B,).

    Raises:
        ModelError: ``attention`` between maps of one position, which could teach nothing.

    Differs from RepDistiller: the teacher's side runs without autograd (there its gradients were computed and thrown away).

    Paper: Kim, Park, Kwak, NeurIPS 2018, arXiv 1802.04977
    """

    def __init__(
        self,
        s_shape: Shape,
        t_shape: Shape,
        t_paraphraser: Paraphraser | None = None,
        form: Literal["attention", "factor"] = "attention",
        rate: Positive = 0.5,
        batch_norm: bool = True,
    ) -> None:
        super().__init__()
        self.form = form
        if form == "attention" and smaller(map_shape(s_shape), map_shape(t_shape)) == (1, 1):
            raise ModelError(
                f"the attention map of one position is 1 whatever it holds, got maps {tuple(s_shape)} and {tuple(t_shape)}",
                hint="form: factor, an earlier spot, or fitnet",
            )
        c, C = map_shape(s_shape)[0], map_shape(t_shape)[0]
        k = factors(C, rate)
        self.translator = layers(nn.Conv2d, (c, c, k, k), batch_norm)
        self.paraphraser = (t_paraphraser or Paraphraser(C, k)).requires_grad_(False)

    def forward(self, s: Tensor, t: Tensor, batch: Batch | None = None) -> Tensor:
        with torch.no_grad():
            theirs = self.paraphraser.encoder(as_map(t))
        return factor_distance(self.translator(as_map(s)), theirs, self.form)


def factor_distance(s: Tensor, t: Tensor, form: Literal["attention", "factor"]) -> Tensor:
    """Mean absolute difference of two factors (B, C, H, W) as unit vectors, (B,)."""
    a, b = at_one_size(s.float(), t.float())
    if form == "attention":
        a, b = a.square().mean(1), b.square().mean(1)
    return (unit(a.flatten(1)) - unit(b.flatten(1))).abs().mean(1)
