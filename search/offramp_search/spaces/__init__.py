"""Search spaces, one module each, behind one interface."""

from offramp_search.spaces._base import Architecture, Block, Space

__all__ = ["Architecture", "Block", "Space"]
