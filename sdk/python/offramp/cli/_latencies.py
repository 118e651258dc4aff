"""Latencies as commands show them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from offramp.cli import console

if TYPE_CHECKING:
    from collections.abc import Sequence

    from offramp.latency import Latency

__all__ = ["latency_table", "milliseconds", "p90_ms"]


def p90_ms(latency: Latency) -> float | None:
    """The 90th percentile, or ``None`` if there are too few samples to state it."""
    try:
        return latency.p90_ms
    except ValueError:
        return None


def milliseconds(value: float | None) -> str:
    """A time for people."""
    return "-" if value is None else f"{value:.3f}"


def latency_table(stages: Sequence[Latency], *, title: str) -> None:
    """Print median and p90 of each stage, and the sum of the medians up to it."""
    medians = [stage.median_ms for stage in stages]
    console.table(
        ("stage", "median ms", "p90 ms", "up to here ms", "runs"),
        [
            (
                number,
                milliseconds(stage.median_ms),
                milliseconds(p90_ms(stage)),
                milliseconds(sum(medians[: number + 1])),
                len(stage.samples_ms),
            )
            for number, stage in enumerate(stages)
        ],
        title=title,
    )
