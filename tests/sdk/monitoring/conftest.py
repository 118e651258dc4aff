"""Predictions without a network."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from offramp.bundle import Policy

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class Answer:
    """What a monitor reads of a prediction."""

    exit: int = 0
    index: int = 0
    reason: str = "confident"
    policy: str = "default"
    score: float = 0.97
    stage_ms: tuple[float, ...] = (0.25,)
    total_ms: float = 0.5

    def evidence(self) -> tuple[list[float], float]:
        """Ten classes of which one has the score, and the others what is left."""
        return [math.log(self.score), *[math.log((1.0 - self.score) / 9)] * 9], 1.0


@pytest.fixture
def counted_policy() -> Callable[..., Policy]:
    """A policy for three exits that knows its exit counts."""

    def make(name: str = "default", exit_counts: tuple[int, ...] = (600, 300, 100)) -> Policy:
        return Policy(
            name=name,
            program="litert/int8",
            signal="max_probability",
            temperatures=(1.0, 1.0, 1.0),
            thresholds=(0.5, 0.5, 0.0),
            enabled=(True, True, True),
            exit_counts=exit_counts,
        )

    return make


@pytest.fixture
def answer() -> type[Answer]:
    """``answer(exit=1, ...)`` makes one."""
    return Answer
