"""What the user limits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Budget"]


@final
@dataclass(frozen=True, slots=True)
class Budget:
    """Limits of a search; ``None`` leaves a limit out, but one must be given.

    Attributes:
        mean_ms: Mean latency per image, exits taken into account, in milliseconds.
        worst_ms: Latency of an image that runs through every stage, in milliseconds.
        size_bytes: Size of the parameters in the shipped precision, in bytes.
    """

    mean_ms: float | None = None
    worst_ms: float | None = None
    size_bytes: int | None = None

    def __post_init__(self) -> None:
        limits = {
            "mean_ms": self.mean_ms,
            "worst_ms": self.worst_ms,
            "size_bytes": self.size_bytes,
        }
        if all(limit is None for limit in limits.values()):
            raise ValueError("a budget needs at least one of mean_ms, worst_ms and size_bytes")
        for name, limit in limits.items():
            if limit is not None and not (math.isfinite(limit) and limit > 0):
                raise ValueError(f"{name} must be positive and finite, got {limit}")

    def allows(self, stage_ms: Sequence[float], size_bytes: int) -> bool:
        """Whether an architecture can meet the budget at all, before anything is run.

        It can meet ``mean_ms`` at all if leaving at the first exit every time does.

        Args:
            stage_ms: Latency that each stage adds, in milliseconds.
            size_bytes: Size of its parameters, in bytes.
        """
        return (
            (self.mean_ms is None or stage_ms[0] <= self.mean_ms)
            and (self.worst_ms is None or math.fsum(stage_ms) <= self.worst_ms)
            and (self.size_bytes is None or size_bytes <= self.size_bytes)
        )
