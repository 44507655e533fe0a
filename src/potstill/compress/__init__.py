"""From a trained student to a device: prune, distil back, quantize, export, prove.

``potstill.compress(...)`` is the function; ``potstill.compress.prune`` and the others are its stages, each usable alone.
Importing this loads no torch.
"""

from __future__ import annotations

import sys
import types
from typing import Any


class _Callable(types.ModuleType):
    """``potstill.compress`` is the function for its users, and this package for those who import from it."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from potstill.compress.chain import compress

        return compress(*args, **kwargs)


sys.modules[__name__].__class__ = _Callable
