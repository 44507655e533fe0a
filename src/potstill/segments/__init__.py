"""Cutting a net at its spots into callable pieces, whatever its code looks like (see :class:`Segments`)."""

from potstill.segments.cut import Segments
from potstill.segments.modes import evaluating, without_slopes
from potstill.segments.trace import Trace

__all__ = ["Segments", "Trace", "evaluating", "without_slopes"]
