from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from offramp_search.comparison import hypervolume, pareto_front

POINTS = np.array([[1.0, 0.5], [2.0, 0.8], [2.0, 0.7], [3.0, 0.8], [0.5, 0.2], [1.0, 0.5]])


def test_only_what_nothing_beats_is_kept_by_latency() -> None:
    assert pareto_front(POINTS).tolist() == [4, 0, 1]


def test_the_area_of_three_steps() -> None:
    expected = 0.5 * (0.2 - 0.1) + 1.0 * (0.5 - 0.1) + 2.0 * (0.8 - 0.1)
    assert hypervolume(POINTS, slowest_ms=4, worst_accuracy=0.1) == pytest.approx(expected)


def test_points_beyond_the_reference_count_nothing() -> None:
    assert hypervolume(POINTS, slowest_ms=0.5, worst_accuracy=0.1) == 0
    assert hypervolume(POINTS, slowest_ms=4, worst_accuracy=0.8) == 0
    assert hypervolume(np.empty((0, 2)), slowest_ms=1, worst_accuracy=0) == 0


@given(arrays(np.float64, (8, 2), elements=st.integers(0, 5).map(float)))
def test_it_is_the_area_a_grid_counts(points: np.ndarray) -> None:
    cells = sum(
        bool(((points[:, 0] <= x) & (points[:, 1] > y)).any()) for x in range(5) for y in range(5)
    )
    assert hypervolume(points, slowest_ms=5, worst_accuracy=0) == pytest.approx(cells)
