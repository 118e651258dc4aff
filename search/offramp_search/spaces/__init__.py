"""Search spaces, one module each, behind one interface."""

from offramp_search.spaces._base import Architecture, Block, Space
from offramp_search.spaces.cell import ABSENT, Cell
from offramp_search.spaces.static_transform import MaskedNetwork, StaticTransform

__all__ = ["ABSENT", "Architecture", "Block", "Cell", "MaskedNetwork", "Space", "StaticTransform"]
