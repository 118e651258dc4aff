"""Cells of blocks, stacked: the space of PNAS with exits between cells."""

from offramp_search.spaces.cell._form import ABSENT
from offramp_search.spaces.cell._space import Cell

__all__ = ["ABSENT", "Cell"]
