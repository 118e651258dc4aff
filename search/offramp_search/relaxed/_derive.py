"""From probabilities to an architecture."""

from __future__ import annotations

import heapq
import itertools
from typing import TYPE_CHECKING

import numpy as np
from optuna.distributions import CategoricalDistribution

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray
    from optuna.distributions import BaseDistribution

    from offramp_search.spaces import Architecture

__all__ = ["by_probability"]


def by_probability(
    decisions: Mapping[str, BaseDistribution], probabilities: Mapping[str, NDArray[np.float64]]
) -> Iterator[Architecture]:
    """All architectures, the most probable first: the first that keeps a budget is the answer.

    The very first takes the most probable choice everywhere.

    Args:
        decisions: Categorical ones.
        probabilities: For every decision, of each choice.
    """
    kinds = [kind for kind in decisions.values() if isinstance(kind, CategoricalDistribution)]
    names = list(decisions)
    orders = [np.argsort(-probabilities[name], kind="stable") for name in names]
    costs = [
        -np.log(np.maximum(probabilities[name][order], 1e-300))
        for name, order in zip(names, orders, strict=True)
    ]
    # Each step takes the next choice of one decision, never of one before that of the last step:
    # so every combination is reached once, and always from one that is no less probable.
    tie = itertools.count()
    heap = [(float(sum(cost[0] for cost in costs)), next(tie), (0,) * len(names), 0)]
    while heap:
        total, _, ranks, last = heapq.heappop(heap)
        yield {
            name: str(kind.choices[order[rank]])
            for name, kind, order, rank in zip(names, kinds, orders, ranks, strict=True)
        }
        for place in range(last, len(names)):
            rank = ranks[place] + 1
            if rank < len(costs[place]):
                dearer = total + float(costs[place][rank] - costs[place][rank - 1])
                after = (*ranks[:place], rank, *ranks[place + 1 :])
                heapq.heappush(heap, (dearer, next(tie), after, place))
