"""Whether a LiteRT file holds together: engines follow what it says without looking everywhere.

A file is a FlatBuffer: tables that point to each other by offsets. Every offset, vector and index
that the interpreter follows when it loads a file is followed here first, and must stay inside.
The schema is that of TensorFlow Lite, version 3.
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple, final

from offramp.errors import ProgramError

__all__ = ["verify_flatbuffer"]

_MOST_TABLES = 1_000_000


class Table(NamedTuple):
    """A kind of table: its fields that point elsewhere, by their number."""

    fields: dict[int, Any]


class Vector(NamedTuple):
    """A vector of numbers of so many bytes each, or of tables."""

    of: int | Table


_ANY = Table({})
_INTS, _LONGS, _BYTES = Vector(4), Vector(8), Vector(1)
_CODE = Table({1: _BYTES})
_QUANTIZATION = Table({0: _INTS, 1: _INTS, 2: _INTS, 3: _LONGS, 5: _ANY})
_TENSOR = Table({0: _INTS, 3: _BYTES, 4: _QUANTIZATION, 6: _ANY, 7: _INTS})
_OPERATOR = Table({1: _INTS, 2: _INTS, 4: _ANY, 5: _BYTES, 7: _BYTES, 8: _INTS})
_SUBGRAPH = Table({0: Vector(_TENSOR), 1: _INTS, 2: _INTS, 3: Vector(_OPERATOR), 4: _BYTES})
_BUFFER = Table({0: _BYTES})
_METADATA = Table({0: _BYTES})
_TENSOR_MAP = Table({0: _BYTES})
_SIGNATURE = Table({0: Vector(_TENSOR_MAP), 1: Vector(_TENSOR_MAP), 2: _BYTES})
_MODEL = Table(
    {
        1: Vector(_CODE),
        2: Vector(_SUBGRAPH),
        3: _BYTES,
        4: Vector(_BUFFER),
        5: _INTS,
        6: Vector(_METADATA),
        7: Vector(_SIGNATURE),
    }
)


def verify_flatbuffer(program: bytes) -> None:
    """Follow everything that the interpreter follows when it loads a file.

    Args:
        program: The ``.tflite`` file's content.

    Raises:
        ProgramError: Something points outside of the file, or to a tensor, buffer, operator or
            subgraph that there is not.
    """
    reader = _Reader(program)
    try:
        if program[4:8] != b"TFL3":
            raise _BrokenError("it does not begin as a LiteRT file does")
        model = reader.number("<I", 0)
        reader.check(model, _MODEL)
        _check_indices(reader, model)
    except _BrokenError as error:
        raise ProgramError(
            f"could not load the program: the file is broken: {error}; copy the bundle anew"
        ) from None


class _BrokenError(Exception):
    """What is wrong."""


@final
class _Reader:
    """Numbers, tables and vectors of a FlatBuffer, never beyond its ends."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._tables = 0

    def number(self, kind: str, place: int) -> int:
        size = struct.calcsize(kind)
        if not 0 <= place <= len(self._data) - size:
            raise _BrokenError(f"byte {place} of {len(self._data)} is pointed to")
        (value,) = struct.unpack_from(kind, self._data, place)
        return int(value)

    def field(self, table: int, number: int) -> int | None:
        """Where a table's field is; ``None`` if it has none."""
        entries = table - self.number("<i", table)
        if 4 + 2 * number >= self.number("<H", entries):
            return None
        offset = self.number("<H", entries + 4 + 2 * number)
        return table + offset if offset else None

    def follow(self, table: int, number: int) -> int | None:
        """What a table's field points to."""
        place = self.field(table, number)
        return None if place is None else place + self.number("<I", place)

    def vector(self, place: int | None, size_bytes: int) -> range:
        """The places of a vector's elements."""
        if place is None:
            return range(0)
        first = place + 4
        end = first + size_bytes * self.number("<I", place)
        if end > len(self._data):
            raise _BrokenError(f"a vector ends at byte {end} of {len(self._data)}")
        return range(first, end, size_bytes)

    def tables(self, table: int, number: int) -> list[int]:
        """The tables of a vector."""
        places = self.vector(self.follow(table, number), 4)
        return [place + self.number("<I", place) for place in places]

    def numbers(self, table: int, number: int) -> list[int]:
        """The 32-bit integers of a vector."""
        return [self.number("<i", place) for place in self.vector(self.follow(table, number), 4)]

    def unsigned(self, table: int, number: int) -> int:
        """A 32-bit field, which is 0 where it is left out."""
        place = self.field(table, number)
        return 0 if place is None else self.number("<I", place)

    def check(self, table: int, kind: Table) -> None:
        """Follow a table and all it points to."""
        self._tables += 1
        if self._tables > _MOST_TABLES:
            raise _BrokenError(f"it has more than {_MOST_TABLES} tables")
        entries = table - self.number("<i", table)
        size_bytes, inline_bytes = self.number("<H", entries), self.number("<H", entries + 2)
        if size_bytes < 4 or size_bytes % 2 or inline_bytes < 4:
            raise _BrokenError(f"the table at byte {table} has no fields")
        self.number("<B", table + inline_bytes - 1)
        for place in range(entries + 4, entries + size_bytes, 2):
            if self.number("<H", place) >= inline_bytes:
                raise _BrokenError(f"a field of the table at byte {table} lies beyond its end")
        for number, pointed in kind.fields.items():
            target = self.follow(table, number)
            if target is None:
                continue
            if isinstance(pointed, Table):
                self.check(target, pointed)
            elif isinstance(pointed.of, Table):
                for element in self.tables(table, number):
                    self.check(element, pointed.of)
            else:
                self.vector(target, pointed.of)


def _check_indices(reader: _Reader, model: int) -> None:
    codes, buffers = len(reader.tables(model, 1)), len(reader.tables(model, 4))
    subgraphs = reader.tables(model, 2)
    tensors = [reader.tables(subgraph, 0) for subgraph in subgraphs]
    for subgraph, own in zip(subgraphs, tensors, strict=True):
        for tensor in own:
            _within("buffer", reader.unsigned(tensor, 2), buffers)
        for number in (1, 2):
            for index in reader.numbers(subgraph, number):
                _within("tensor", index, len(own))
        for operator in reader.tables(subgraph, 3):
            _within("operator", reader.unsigned(operator, 0), codes)
            # -1 is an input that is left out.
            for index in (*reader.numbers(operator, 1), *reader.numbers(operator, 8)):
                _within("tensor", index + 1, len(own) + 1)
            for index in reader.numbers(operator, 2):
                _within("tensor", index, len(own))
    for metadata in reader.tables(model, 6):
        _within("buffer", reader.unsigned(metadata, 1), buffers)
    for signature in reader.tables(model, 7):
        subgraph = reader.unsigned(signature, 4)
        _within("subgraph", subgraph, len(subgraphs))
        for number in (0, 1):
            for mapped in reader.tables(signature, number):
                _within("tensor", reader.unsigned(mapped, 1), len(tensors[subgraph]))


def _within(what: str, index: int, count: int) -> None:
    if not 0 <= index < count:
        raise _BrokenError(f"there is no {what} {index}, only {count}")
