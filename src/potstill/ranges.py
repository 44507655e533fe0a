"""Types of settings with their ranges. No torch here: configurations are checked before torch is imported.

A loss annotates its settings with these (``temperature: Positive = 4.0``); ``potstill.config`` reads the annotations from
the source and refuses a value out of range, with file, line and column.
"""

from typing import Annotated

from annotated_types import Ge, Gt, Le

Positive = Annotated[float, Gt(0)]
NonNegative = Annotated[float, Ge(0)]
Share = Annotated[float, Ge(0), Le(1)]
Count = Annotated[int, Ge(1)]
