"""Labels: the stage that computes each channel of one tensor.

Labels are ``bytes``, one per channel. They are immutable and hash quickly, and ``bytes.translate``
and ``bytes.count`` do most of the work, so that the cost of an architecture takes a fraction of a
millisecond. In a network of S stages the label S marks a channel that no exit needs: it is never
computed.
"""

from __future__ import annotations

from functools import lru_cache

__all__ = [
    "channels_of",
    "counts",
    "earliest",
    "latest",
    "not_before",
    "read_at",
    "stored_by",
]

_CACHED = 8192


@lru_cache(_CACHED)
def counts(labels: bytes, stages: int) -> tuple[int, ...]:
    """How many channels each stage computes."""
    return tuple(labels.count(stage) for stage in range(stages))


@lru_cache(_CACHED)
def channels_of(labels: bytes, stage: int, order: tuple[int, ...] | None = None) -> tuple[int, ...]:
    """The channels that one stage computes, in the order they are stored; by default their own."""
    if order is not None:
        return tuple(channel for channel in order if labels[channel] == stage)
    return tuple(channel for channel, label in enumerate(labels) if label == stage)


@lru_cache(_CACHED)
def stored_by(labels: bytes, stage: int, order: tuple[int, ...] | None = None) -> tuple[int, ...]:
    """The channels that there are by the end of a stage, in the order they are stored."""
    return tuple(c for earlier in range(stage + 1) for c in channels_of(labels, earlier, order))


def latest(first: bytes, *others: bytes) -> bytes:
    """The later label of each channel: an elementwise result waits for its last operand."""
    for other in others:
        if other != first:
            first = bytes(map(max, first, other))
    return first


def earliest(first: bytes, *others: bytes) -> bytes:
    """The earlier label of each channel: a channel is due when its first reader is."""
    for other in others:
        if other != first:
            first = bytes(map(min, first, other))
    return first


@lru_cache(_CACHED)
def not_before(label: int) -> bytes:
    """A table for ``bytes.translate`` that raises labels to at least ``label``."""
    return bytes(max(value, label) for value in range(256))


@lru_cache(_CACHED)
def read_at(readers: bytes, stages: int) -> bytes:
    """A table for ``bytes.translate``: label -> the stage that first reads such a channel.

    A reader labelled r reads all channels labelled <= r, so a channel labelled l is first read at
    the smallest r >= l; where there is none it is never read.
    """
    present = sorted(set(readers))
    table = bytearray(range(256))
    for label in range(stages + 1):
        table[label] = next((reader for reader in present if reader >= label), stages)
    return bytes(table)
