"""Data: ``load`` a source, see it through ``Views``, read it as a ``Stream`` of batches. Loading imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from potstill.data.arrays import ArrayData, Data, Splits
from potstill.data.sources import SOURCES, load

if TYPE_CHECKING:
    from potstill.data.stream import Stream
    from potstill.data.views import Views

__all__ = ["SOURCES", "ArrayData", "Data", "Splits", "Stream", "Views", "load"]


def __getattr__(name: str) -> Any:
    if name == "Stream":
        from potstill.data.stream import Stream

        return Stream
    if name == "Views":
        from potstill.data.views import Views

        return Views
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
