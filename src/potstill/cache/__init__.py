"""What a teacher says, on disk, per (sample, view): asked once, then read."""

from potstill.cache.codec import CODECS, Codec, Layout, codec, divergence
from potstill.cache.files import read_meta
from potstill.cache.key import fingerprint, key
from potstill.cache.net import Cached, check, why_not
from potstill.cache.place import Place, Plan, estimate, fill, install, place
from potstill.cache.shelf import Shelf
from potstill.cache.store import Store

__all__ = ["CODECS", "Cached", "Codec", "Layout", "Store", "check", "codec", "divergence", "fingerprint", "key"]
__all__ += ["Place", "Plan", "Shelf", "estimate", "fill", "install", "place", "read_meta", "why_not"]
