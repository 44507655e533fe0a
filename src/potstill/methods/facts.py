"""Which arguments of a loss are facts. One rule for the configuration, which reads source, and the builder. No torch."""

from __future__ import annotations

DATA = frozenset({"num_classes", "num_samples", "labels"})
"""What the data say."""


def is_fact(argument: str) -> bool:
    """Whether the builder fills an argument in by looking: what the data say, and all of the nets: ``s_shape``, ``t_head`` ..."""
    return argument in DATA or argument.startswith(("s_", "t_"))
