"""The cost-aware path: isotonic curves, one price for all exits, and a safe first candidate."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from offramp.calibration import cost_aware_path, isotonic_falling

VALUES = st.integers(1, 7).flatmap(
    lambda n: st.tuples(
        arrays(np.float64, n, elements=st.floats(-2, 2)),
        arrays(np.int64, n, elements=st.integers(1, 5)),
    )
)


@given(VALUES)
def test_isotonic_is_the_closest_that_falls(given_: tuple[np.ndarray, np.ndarray]) -> None:
    values, weights = given_
    fitted = isotonic_falling(values, weights)
    assert (np.diff(fitted) <= 1e-12).all()
    best = float((weights * (fitted - values) ** 2).sum())
    # The optimum is constant on blocks of consecutive values: try every way to cut them.
    n = len(values)
    for cuts in itertools.chain.from_iterable(
        itertools.combinations(range(1, n), k) for k in range(n)
    ):
        edges = (0, *cuts, n)
        blocks = [slice(a, b) for a, b in itertools.pairwise(edges)]
        means = [np.average(values[block], weights=weights[block]) for block in blocks]
        if all(a >= b for a, b in itertools.pairwise(means)):
            other = sum(
                float((weights[block] * (values[block] - mean) ** 2).sum())
                for block, mean in zip(blocks, means, strict=True)
            )
            assert best <= other + 1e-9


SIGNALS = arrays(
    np.float64,
    st.tuples(st.integers(1, 3), st.integers(2, 60)),
    elements=st.floats(0, 1) | st.sampled_from([0.0, 0.5, 1.0]),
)


@given(SIGNALS, st.integers(0, 1000))
def test_it_starts_safe_and_no_image_leaves_later_further_along(
    signals: np.ndarray, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    early, images = signals.shape
    costs = rng.integers(-1, 2, (early, images))
    path = cost_aware_path(signals, costs, np.arange(1.0, early + 2))
    assert not path.enabled[0].any()
    assert (path.thresholds == path.thresholds.astype(np.float32)).all()
    before = path.exits(0, signals)
    assert (before == early).all()
    for candidate in range(1, len(path)):
        after = path.exits(candidate, signals)
        assert (after <= before).all()
        before = after


def test_the_dear_exit_waits_for_its_price(rng: np.random.Generator) -> None:
    """Two exits that save the same: the one that errs more opens later."""
    signals = rng.random((2, 4_000))
    costs = np.stack([rng.random(4_000) < 0.4, rng.random(4_000) < 0.05]).astype(np.int64)
    path = cost_aware_path(signals, costs, np.array([1.0, 1.1, 10.0]))
    first_of_second = int(path.enabled[:, 1].argmax())
    assert path.enabled[first_of_second].tolist() == [False, True]


def test_time_saved_is_worth_its_price(rng: np.random.Generator) -> None:
    """Two exits that err alike: the one that saves more opens first."""
    signals = rng.random((2, 4_000))
    costs = (rng.random((2, 4_000)) < 0.1).astype(np.int64)
    path = cost_aware_path(signals, costs, np.array([1.0, 9.5, 10.0]))
    assert path.enabled[int(path.enabled.any(axis=1).argmax())].tolist() == [True, False]


def test_without_early_exits_it_is_one_point() -> None:
    path = cost_aware_path(np.empty((0, 30)), np.empty((0, 30)), np.array([1.0]))
    assert len(path) == 1
