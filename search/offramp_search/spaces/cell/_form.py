"""What a cell is: blocks of two inputs and two operations, and when two cells are the same."""

from __future__ import annotations

from itertools import groupby, permutations, product
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Sequence

    from offramp_search.spaces._base import Architecture

__all__ = [
    "ABSENT",
    "BEFORE",
    "OPERATIONS",
    "PREVIOUS",
    "CellBlock",
    "Half",
    "canonical",
    "inputs_of",
    "names_of",
    "read",
]

ABSENT = "none"
"""In place of a block's first input: there is no such block."""
PREVIOUS = "previous"
"""The output of the cell before this one."""
BEFORE = "before"
"""The output of the cell before that."""

OPERATIONS = (
    "separable_3x3",
    "separable_5x5",
    "separable_7x7",
    "1x7_7x1",
    "identity",
    "average_pool_3x3",
    "max_pool_3x3",
    "dilated_3x3",
)
"""The eight of PNAS (Liu et al. 2018, section 3.1)."""


class Half(NamedTuple):
    """An input and what is done to it: the input is a cell, or the number of an earlier block."""

    source: str | int
    operation: str


CellBlock: TypeAlias = tuple[Half, Half]
"""Its output is the sum of its halves."""


def names_of(block: int) -> tuple[str, str, str, str]:
    """The decisions of a block, counted from 1."""
    return tuple(f"block_{block}_{what}" for what in ("input_1", "op_1", "input_2", "op_2"))  # type: ignore[return-value]


def inputs_of(block: int) -> tuple[str, ...]:
    """What a block may read."""
    return (PREVIOUS, BEFORE, *(f"block_{earlier}" for earlier in range(1, block)))


def read(architecture: Architecture, blocks: int) -> tuple[CellBlock, ...] | str:
    """The blocks that are there, numbered from 0 without gaps, or why they make no cell."""
    found: list[CellBlock] = []
    numbers: dict[str, int] = {}
    for block in range(1, blocks + 1):
        input_1, op_1, input_2, op_2 = (str(architecture[name]) for name in names_of(block))
        if input_1 == ABSENT:
            continue
        halves = []
        for source, operation in ((input_1, op_1), (input_2, op_2)):
            if source.startswith("block_") and source not in numbers:
                return f"block_{block} reads {source}, which is not there"
            halves.append(Half(numbers.get(source, source), operation))
        numbers[f"block_{block}"] = len(found)
        found.append((halves[0], halves[1]))
    return tuple(found)


def canonical(blocks: Sequence[CellBlock]) -> tuple[tuple[tuple[str, str], ...], ...]:
    """Equal for cells that differ in the order of blocks or of a block's halves alone.

    Blocks are sorted by what they compute; where several compute the same, the smallest of all
    their orders is taken, since it may matter which of them another block reads.
    """
    forms: list[str] = []
    for block in blocks:
        sources = [
            forms[half.source] if isinstance(half.source, int) else half.source for half in block
        ]
        halves = sorted(
            f"{half.operation}({source})" for half, source in zip(block, sources, strict=True)
        )
        forms.append("+".join(halves))
    order = sorted(range(len(blocks)), key=lambda at: forms[at])
    ties = [list(group) for _, group in groupby(order, key=lambda at: forms[at])]
    return min(
        _written(blocks, [at for group in groups for at in group])
        for groups in product(*(permutations(tie) for tie in ties))
    )


def _written(
    blocks: Sequence[CellBlock], order: Sequence[int]
) -> tuple[tuple[tuple[str, str], ...], ...]:
    place = {at: f"block_{new}" for new, at in enumerate(order)}
    return tuple(
        tuple(
            sorted(
                (
                    place[half.source] if isinstance(half.source, int) else half.source,
                    half.operation,
                )
                for half in blocks[at]
            )
        )
        for at in order
    )
