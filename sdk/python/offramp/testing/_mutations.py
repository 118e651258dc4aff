"""Seeded damage: what a loader must survive."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np

__all__ = ["mutations"]

_TRUNCATIONS = 64
_EDGES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1)


def mutations(
    seeds: tuple[bytes, ...], generator: np.random.Generator, count: int
) -> Iterator[bytes]:
    """Damaged copies of sound inputs.

    First every seed cut at each 64th of its length; then flipped bits, overwritten integers with
    the values at which arithmetic breaks, spliced, repeated, removed and inserted pieces, and
    several of these at once. The same generator gives the same inputs.

    Args:
        seeds: Sound inputs, none of them empty.
        generator: Chooses what is damaged, and where.
        count: How many inputs to make.

    Yields:
        Inputs, nearly all of them damaged.
    """
    made = 0
    for seed in seeds:
        for part in range(_TRUNCATIONS):
            if made == count:
                return
            yield seed[: len(seed) * part // _TRUNCATIONS]
            made += 1
    for _ in range(count - made):
        data = bytearray(seeds[generator.integers(len(seeds))])
        for _ in range(1 + int(generator.geometric(0.5)) // 2):
            other = seeds[generator.integers(len(seeds))]
            _MUTATORS[generator.integers(len(_MUTATORS))](data, other, generator)
            if not data:
                break
        yield bytes(data)


def _place(data: bytearray, generator: np.random.Generator, size: int = 1) -> int:
    return int(generator.integers(max(len(data) - size + 1, 1)))


def _length(data: bytearray, generator: np.random.Generator) -> int:
    return min(len(data), int(generator.geometric(0.05)))


def _flip_bits(data: bytearray, _: bytes, generator: np.random.Generator) -> None:
    for _bit in range(int(generator.integers(1, 5))):
        data[_place(data, generator)] ^= 1 << int(generator.integers(8))


def _set_bytes(data: bytearray, _: bytes, generator: np.random.Generator) -> None:
    start = _place(data, generator)
    end = min(len(data), start + int(generator.integers(1, 9)))
    data[start:end] = generator.bytes(end - start)


def _set_integer(data: bytearray, _: bytes, generator: np.random.Generator) -> None:
    """An edge value, or one near what was there, where an integer of its size would stand."""
    size = int(generator.choice((1, 2, 4, 8)))
    place = _place(data, generator, size) // size * size
    old = int.from_bytes(data[place : place + size], "little")
    near = (old + 1, old - 1, old * 2, -old, len(data), len(data) - place)
    edges = (*_EDGES, 2**63 - 1, 2**63, *near)
    value = edges[generator.integers(len(edges))] % 2 ** (8 * size)
    data[place : place + size] = struct.pack("<Q", value)[: len(data[place : place + size])]


def _splice(data: bytearray, other: bytes, generator: np.random.Generator) -> None:
    """A piece of another seed, over what was there."""
    length = min(_length(data, generator), len(other))
    source = int(generator.integers(len(other) - length + 1))
    place = _place(data, generator, length)
    data[place : place + length] = other[source : source + length]


def _cross(data: bytearray, other: bytes, generator: np.random.Generator) -> None:
    """The front of one and the back of the other."""
    place = _place(data, generator)
    del data[place:]
    data += other[place:]


def _remove(data: bytearray, _: bytes, generator: np.random.Generator) -> None:
    place = _place(data, generator)
    del data[place : place + _length(data, generator)]


def _repeat(data: bytearray, _: bytes, generator: np.random.Generator) -> None:
    place = _place(data, generator)
    data[place:place] = data[place : place + _length(data, generator)]


def _insert(data: bytearray, _: bytes, generator: np.random.Generator) -> None:
    place = _place(data, generator)
    data[place:place] = generator.bytes(int(generator.integers(1, 9)))


def _truncate(data: bytearray, _: bytes, generator: np.random.Generator) -> None:
    del data[_place(data, generator) :]


# In-place damage is what gets furthest into a parser, so it comes most often.
_MUTATORS: tuple[Callable[[bytearray, bytes, np.random.Generator], None], ...] = (
    *(_flip_bits, _flip_bits, _flip_bits),
    *(_set_integer, _set_integer, _set_integer),
    *(_set_bytes, _splice, _cross, _remove, _repeat, _insert, _truncate),
)
