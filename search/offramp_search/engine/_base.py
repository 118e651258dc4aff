"""The interface of an engine: where architectures are evaluated."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from offramp_search.evaluators import Evaluator

__all__ = ["Engine", "LostEvaluationError"]


class LostEvaluationError(Exception):
    """The process that evaluated an architecture died, and so did those that tried again."""


class Engine(ABC):
    """Where architectures are evaluated: in this process, in several, or on a cluster.

    Proposals, budgets, latencies and the journal stay with the process that searches; only
    ``Evaluator.evaluate`` goes elsewhere, and its outputs come back.
    """

    @property
    @abstractmethod
    def workers(self) -> int:
        """How many architectures are evaluated at once."""

    @abstractmethod
    def open(self, evaluator: Evaluator) -> AbstractContextManager[Evaluator]:
        """Make ready, and tidy up when the context ends.

        Args:
            evaluator: What evaluates; pickled if it goes to other processes.

        Returns:
            A context with an evaluator that answers as the one given does, may be called by
            ``workers`` threads at a time, and raises ``LostEvaluationError`` when its processes
            die again and again.
        """
