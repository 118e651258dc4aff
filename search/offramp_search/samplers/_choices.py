"""Decisions as numbered choices, and generators that forget nothing because they keep nothing."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import numpy as np
from optuna.distributions import CategoricalDistribution, IntDistribution

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

__all__ = ["choice", "count", "draw", "generator", "index"]


def count(name: str, distribution: BaseDistribution) -> int:
    """How many choices a decision has.

    Raises:
        ValueError: The decision is neither categorical nor an integer range.
    """
    if isinstance(distribution, CategoricalDistribution):
        return len(distribution.choices)
    if isinstance(distribution, IntDistribution):
        return (distribution.high - distribution.low) // distribution.step + 1
    raise ValueError(
        f"decision {name!r} is a {type(distribution).__name__}; expected a categorical or integer "
        "one, whose choices can be counted"
    )


def choice(distribution: BaseDistribution, index: int) -> str | int:
    """The value of a numbered choice."""
    if isinstance(distribution, CategoricalDistribution):
        value: str | int = distribution.choices[index]  # type: ignore[assignment]
        return value
    assert isinstance(distribution, IntDistribution)
    return distribution.low + index * distribution.step


def draw(distribution: BaseDistribution, seed: int, trial: int, name: str) -> str | int:
    """A choice with equal probabilities, the same whoever draws it for this trial."""
    choices = count(name, distribution)
    return choice(distribution, int(generator(seed, trial, name).integers(choices)))


def index(distribution: BaseDistribution, value: object) -> int:
    """The number of a choice."""
    if isinstance(distribution, CategoricalDistribution):
        return int(distribution.to_internal_repr(value))  # type: ignore[arg-type]
    assert isinstance(distribution, IntDistribution)
    assert isinstance(value, int)
    return (value - distribution.low) // distribution.step


def generator(seed: int, trial: int, name: str = "") -> np.random.Generator:
    """A generator for one decision of one trial, whoever draws it and whenever."""
    return np.random.default_rng([seed, trial, zlib.crc32(name.encode())])
