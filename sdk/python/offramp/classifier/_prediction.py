"""What a prediction tells."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, final

import msgspec
import numpy as np

from offramp.classifier._walk import LAST
from offramp.policy import abstains, probabilities

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from offramp.bundle import Policy
    from offramp.classifier._options import Listing
    from offramp.policy import Logits

__all__ = ["Category", "Prediction", "Reason"]

Reason = Literal["confident", "last_exit", "deadline", "reused"]
"""Why an exit answered: it was sure enough, it is the last, or there was no time for another; or
no exit was asked, because a stream's scene has not changed since the last answer."""


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
class Prediction(msgspec.Struct, frozen=True, eq=False, dict=True):
    """The answer to one image, where it came from, and what it took.

    Attributes:
        index: Of the most probable class; of equal ones the first.
        exit: The exit that answered, counted from 0.
        reason: Why that exit answered: ``confident``, ``last_exit`` or ``deadline``; ``reused`` if
            a ``LiveClassifier`` gave the last answer again.
    """

    # Made once for every image: a struct of msgspec's takes a fifth of the time of a dataclass,
    # and whatever can be told from its fields is told when somebody asks.

    index: int
    exit: int
    reason: Reason
    _clock_s: list[float]
    _logits: Logits
    _policy: Policy | None
    _labels: tuple[str, ...]
    _listing: Listing

    @property
    def label(self) -> str:
        """The name of the most probable class."""
        return self._labels[self.index]

    @property
    def policy(self) -> str:
        """The name of the policy that decided; ``last`` if every image runs to the last exit."""
        return LAST if self._policy is None else self._policy.name

    @property
    def stage_ms(self) -> tuple[float, ...]:
        """The time of each stage that ran, in milliseconds.

        To decide at the exit before counts towards a stage; it takes about a microsecond.
        """
        return tuple(
            [1e3 * (ended_s - began_s) for began_s, ended_s in pairwise(self._clock_s[1:-1])]
        )

    @property
    def total_ms(self) -> float:
        """The time of the whole call, decoding and resizing included, in milliseconds."""
        return 1e3 * (self._clock_s[-1] - self._clock_s[0])

    def _said(self) -> tuple[object, ...]:
        return (
            *(self.label, self.index, self.exit, self.reason),
            *(self.stage_ms, self.total_ms, self.policy),
        )

    def __eq__(self, other: object) -> bool:
        return self._said() == other._said() if isinstance(other, Prediction) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._said())

    @functools.cached_property
    def score(self) -> float:
        """Its probability, between 0 and 1, at the policy's temperature.

        Like ``probabilities`` and ``categories`` made when first read, so that who wants the label
        alone does not wait for it.
        """
        return float(self.probabilities[self.index])

    def evidence(self) -> tuple[Logits, float]:
        """The logits of the exit that answered, and the policy's temperature for it.

        A list, for few classes, or an array; it must not be changed.
        """
        policy = self._policy
        return self._logits, 1.0 if policy is None else policy.temperatures[self.exit]

    @functools.cached_property
    def abstained(self) -> bool:
        """Whether the policy withholds the answer, because the exit that answered is not sure.

        ``label`` then still says what the answer would have been, and ``categories`` is empty.
        """
        return self._policy is not None and abstains(self._policy, self.probabilities)

    def __repr__(self) -> str:
        abstained = ", abstained=True" if self.abstained else ""
        return (
            f"Prediction(label={self.label!r}, index={self.index}, score={self.score:.4f}, "
            f"exit={self.exit}, reason={self.reason!r}, policy={self.policy!r}{abstained}, "
            f"stage_ms={self.stage_ms}, total_ms={self.total_ms})"
        )

    @functools.cached_property
    def probabilities(self) -> NDArray[np.float64]:
        """``(classes,)`` float64, all classes in the order of the labels."""
        return probabilities(*self.evidence())

    @functools.cached_property
    def categories(self) -> tuple[Category, ...]:
        """The classes by falling score, as the options of ``predict`` asked for.

        Empty if the answer is withheld. Allow and deny lists and ``score_threshold`` leave classes
        out here, and change neither ``label`` nor ``score``.
        """
        if self.abstained:
            return ()
        max_results, score_threshold, named, allowed = self._listing
        # Equal scores keep the order of the labels, and the answer stays the first of them.
        order = np.argsort(-self.probabilities, kind="stable").tolist()
        order.remove(self.index)
        order.insert(0, self.index)
        if named is not None:
            order = [index for index in order if (index in named) == allowed]
        return tuple(
            Category(index, float(self.probabilities[index]), self._labels[index])
            for index in order[:max_results]
            if self.probabilities[index] >= score_threshold
        )

    def reused(self, total_ms: float) -> Prediction:
        """The same answer given again, without a stage run.

        Args:
            total_ms: What finding out that nothing changed has taken, in milliseconds.
        """
        return Prediction(
            self.index,
            self.exit,
            "reused",
            [0.0, 1e-3 * total_ms],
            self._logits,
            self._policy,
            self._labels,
            self._listing,
        )
