"""What the user limits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, final

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Budget", "Limit"]


@final
@dataclass(frozen=True, slots=True)
class Limit:
    """One limit of a budget.

    Attributes:
        name: Its name in the budget.
        at_most: What it allows.
        unit: Of that.
        what: What is counted.
    """

    name: Literal["size_bytes", "worst_ms", "mean_ms"]
    at_most: float
    unit: str
    what: str

    def stages(self, num_stages: int) -> int:
        """How many stages, from the first on, must be known to say what is taken of it."""
        return {"size_bytes": 0, "mean_ms": 1, "worst_ms": num_stages}[self.name]

    def value(self, stage_ms: Sequence[float], size_bytes: int) -> float:
        """What an architecture takes at least.

        Args:
            stage_ms: Latency that each stage adds, in milliseconds.
            size_bytes: Size of its parameters, in bytes.
        """
        if self.name == "size_bytes":
            return size_bytes
        # Every image could leave at the first exit.
        return stage_ms[0] if self.name == "mean_ms" else math.fsum(stage_ms)


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

    def limits(self) -> tuple[Limit, ...]:
        """The limits that were given."""
        every = (
            ("size_bytes", self.size_bytes, "bytes", "the parameters"),
            ("worst_ms", self.worst_ms, "ms", "all stages"),
            ("mean_ms", self.mean_ms, "ms", "stage 0 alone"),
        )
        return tuple(
            Limit(name, at_most, unit, what)  # type: ignore[arg-type]
            for name, at_most, unit, what in every
            if at_most is not None
        )

    def allows(self, stage_ms: Sequence[float], size_bytes: int) -> bool:
        """Whether an architecture can meet the budget at all, before anything is run.

        It can meet ``mean_ms`` at all if leaving at the first exit every time does.

        Args:
            stage_ms: Latency that each stage adds, in milliseconds.
            size_bytes: Size of its parameters, in bytes.
        """
        return all(limit.value(stage_ms, size_bytes) <= limit.at_most for limit in self.limits())
