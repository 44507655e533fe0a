"""Schemes: who teaches whom."""

from potstill.schemes.schedules import Ramp
from potstill.schemes.scheme import Link, Scheme, offline, total

__all__ = ["Link", "Ramp", "Scheme", "offline", "total"]
