"""potstill distils big networks into small ones. Importing it is cheap: torch is loaded when something needs it."""

from potstill._version import __version__

__all__ = ["__version__"]
