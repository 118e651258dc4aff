"""A search space of which every architecture has been trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from optuna.distributions import CategoricalDistribution

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from offramp_search.spaces import Architecture

__all__ = ["TabularSpace"]


@final
@dataclass(frozen=True, slots=True)
class TabularSpace:
    """All architectures of a space with what was measured of each.

    Attributes:
        name: Of the published table.
        choices: Decision name -> its choices.
        columns: What was measured -> an array with one axis per decision, in the order of
            ``choices``, float64; accuracies are fractions.
    """

    name: str
    choices: Mapping[str, tuple[str, ...]]
    columns: Mapping[str, NDArray[np.float64]]

    def __post_init__(self) -> None:
        shape = tuple(map(len, self.choices.values()))
        for column, array in self.columns.items():
            if array.shape != shape:
                raise ValueError(
                    f"column {column!r} of {self.name} has shape {array.shape}; expected {shape}"
                )

    def decisions(self) -> dict[str, CategoricalDistribution]:
        """Decision name -> the choices there are, as a search space has them."""
        return {name: CategoricalDistribution(options) for name, options in self.choices.items()}

    def look_up(self, column: str, architecture: Architecture) -> float:
        """What was measured of an architecture.

        Raises:
            ValueError: The column, a decision or a choice is unknown.
        """
        if column not in self.columns:
            raise ValueError(
                f"{self.name} has no column {column!r}; it has {', '.join(self.columns)}"
            )
        if set(architecture) != set(self.choices):
            raise ValueError(
                f"the decisions of {self.name} are {', '.join(self.choices)}; got "
                f"{', '.join(architecture) or 'none'}"
            )
        at = []
        for decision, options in self.choices.items():
            if architecture[decision] not in options:
                raise ValueError(
                    f"{architecture[decision]!r} is no choice of {decision}; it has "
                    f"{', '.join(options)}"
                )
            at.append(options.index(str(architecture[decision])))
        return float(self.columns[column][tuple(at)])

    def best(self, column: str) -> float:
        """The largest value of a column."""
        return float(self.columns[column].max())

    def mean(self, column: str) -> float:
        """What a random architecture has of a column, on average."""
        return float(self.columns[column].mean())
