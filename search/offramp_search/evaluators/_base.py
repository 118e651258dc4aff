"""The interface of an evaluator."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from offramp_search.spaces import Architecture

__all__ = ["Evaluator", "Outputs"]


@dataclass(frozen=True, slots=True)
class Outputs:
    """What an architecture answers on the search-validation split.

    Attributes:
        logits: ``(exits, images, classes)`` float32.
        labels: ``(images,)`` int64.
    """

    logits: NDArray[np.float32]
    labels: NDArray[np.int64]


class Evaluator(ABC):
    """Gives an architecture its per-exit outputs on the search-validation split.

    Latency comes from the device, and the thresholds are then solved for the budget: neither is an
    evaluator's business.
    """

    @abstractmethod
    def evaluate(self, architecture: Architecture, *, seed: int) -> Outputs:
        """Outputs of every exit; a pure function of the architecture and the seed."""
