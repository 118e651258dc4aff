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
@dataclass(frozen=True, init=False)
class Prediction:
    """The answer to one image, where it came from, and what it took.

    Attributes:
        label: The name of the most probable class.
        index: Its index; of equal ones the first.
        score: Its probability, between 0 and 1, at the policy's temperature.
        exit: The exit that answered, counted from 0.
        reason: Why that exit answered: ``confident``, ``last_exit`` or ``deadline``.
        stage_ms: The time of each stage that ran, in milliseconds.
        total_ms: The time of the whole call, decoding and resizing included, in milliseconds.
    """

    label: str
    index: int
    score: float
    exit: int
    reason: Reason
    stage_ms: tuple[float, ...]
    total_ms: float
    _logits: NDArray[np.float32] = field(repr=False, compare=False)
    _temperature: float = field(repr=False, compare=False)
    _labels: tuple[str, ...] = field(repr=False, compare=False)
    _max_results: int | None = field(repr=False, compare=False)
    _score_threshold: float = field(repr=False, compare=False)

    def __init__(
        self,
        label: str,
        index: int,
        score: float,
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
            score=score,
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
    def probabilities(self) -> NDArray[np.float64]:
        """``(classes,)`` float64, all classes in the order of the labels.

        Made when first read, as ``categories`` is: most callers want one label and its score.
        """
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
