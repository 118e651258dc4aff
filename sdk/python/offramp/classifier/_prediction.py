"""What a prediction tells."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, final

import numpy as np

from offramp.policy import probabilities

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Category", "Prediction", "Reason"]

Reason = Literal["confident", "last_exit", "deadline"]
"""Why an exit answered: it was sure enough, it is the last, or there was no time for another."""


@final
@dataclass(frozen=True, slots=True)
class Category:
    """One class and its score.

    Attributes:
        index: Of the label, counted from 0.
        score: Its probability at the exit that answered.
        label: Its name.
    """

    index: int
    score: float
    label: str


@final
@dataclass(frozen=True, init=False, repr=False)
class Prediction:
    """The answer to one image, where it came from, and what it took.

    Attributes:
        label: The name of the most probable class.
        index: Its index; of equal ones the first.
        exit: The exit that answered, counted from 0.
        reason: Why that exit answered: ``confident``, ``last_exit`` or ``deadline``.
        stage_ms: The time of each stage that ran, in milliseconds.
        total_ms: The time of the whole call, decoding and resizing included, in milliseconds.
    """

    label: str
    index: int
    exit: int
    reason: Reason
    stage_ms: tuple[float, ...]
    total_ms: float
    _logits: NDArray[np.float32] = field(compare=False)
    _temperature: float = field(compare=False)
    _labels: tuple[str, ...] = field(compare=False)
    _max_results: int | None = field(compare=False)
    _score_threshold: float = field(compare=False)

    def __init__(
        self,
        label: str,
        index: int,
        exit: int,
        reason: Reason,
        stage_ms: tuple[float, ...],
        total_ms: float,
        *,
        logits: NDArray[np.float32],
        temperature: float,
        labels: tuple[str, ...],
        max_results: int | None = None,
        score_threshold: float = 0.0,
    ) -> None:
        # One call instead of a dozen: this is made for every image, with cold caches.
        self.__dict__.update(
            label=label,
            index=index,
            exit=exit,
            reason=reason,
            stage_ms=stage_ms,
            total_ms=total_ms,
            _logits=logits,
            _temperature=temperature,
            _labels=labels,
            _max_results=max_results,
            _score_threshold=score_threshold,
        )

    @functools.cached_property
    def score(self) -> float:
        """Its probability, between 0 and 1, at the policy's temperature.

        Like ``probabilities`` and ``categories`` made when first read, so that who wants the label
        alone does not wait for it.
        """
        return float(self.probabilities[self.index])

    def __repr__(self) -> str:
        return (
            f"Prediction(label={self.label!r}, index={self.index}, score={self.score:.4f}, "
            f"exit={self.exit}, reason={self.reason!r}, stage_ms={self.stage_ms}, "
            f"total_ms={self.total_ms})"
        )

    @functools.cached_property
    def probabilities(self) -> NDArray[np.float64]:
        """``(classes,)`` float64, all classes in the order of the labels."""
        return probabilities(self._logits, self._temperature)

    @functools.cached_property
    def categories(self) -> tuple[Category, ...]:
        """The classes by falling score, as ``max_results`` and ``score_threshold`` asked for."""
        # Equal scores keep the order of the labels, and the answer stays the first of them.
        order = np.argsort(-self.probabilities, kind="stable").tolist()
        order.remove(self.index)
        order.insert(0, self.index)
        return tuple(
            Category(index, float(self.probabilities[index]), self._labels[index])
            for index in order[: self._max_results]
            if self.probabilities[index] >= self._score_threshold
        )
