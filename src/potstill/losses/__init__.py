"""The zoo of losses: one published method a file, one class a method."""

from potstill.losses.at import AT
from potstill.losses.base import Loss
from potstill.losses.ce import CE
from potstill.losses.fitnet import FitNet
from potstill.losses.kd import KD
from potstill.losses.soft_ce import SoftCE

__all__ = ["AT", "CE", "KD", "FitNet", "Loss", "SoftCE"]
