"""The path starts safe, is nested, and has no exit that nobody uses."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from offramp.bundle import Policy
from offramp.calibration import CandidatePath, candidate_path
from offramp.policy import choose_exits, probabilities, signal_values

SIGNALS = arrays(
    np.float64,
    st.tuples(st.integers(1, 4), st.integers(1, 60)),
    elements=st.floats(0, 1) | st.sampled_from([0.0, 0.5, 1.0]),
)


@given(SIGNALS, SIGNALS)
def test_no_image_leaves_later_further_along_the_path(fit: np.ndarray, others: np.ndarray) -> None:
    path = candidate_path(fit)
    unseen = np.resize(others, (fit.shape[0], 50))
    before = path.exits(0, unseen)
    assert (before == fit.shape[0]).all()
    for candidate in range(1, len(path)):
        after = path.exits(candidate, unseen)
        assert (after <= before).all()
        before = after


@given(SIGNALS)
def test_thresholds_fall_and_are_float32_between_0_and_1(fit: np.ndarray) -> None:
    thresholds = candidate_path(fit).thresholds
    assert (np.diff(thresholds, axis=0) <= 0).all()
    assert (thresholds == thresholds.astype(np.float32)).all()
    assert ((thresholds >= 0) & (thresholds <= 1)).all()


@given(SIGNALS)
def test_the_last_candidate_lets_every_image_out_at_the_first_exit(fit: np.ndarray) -> None:
    path = candidate_path(fit)
    assert (path.exits(len(path) - 1, fit) == 0).all()


def test_the_steps_away_from_no_early_exit_are_single_images(rng: np.random.Generator) -> None:
    fit = rng.random((2, 1_000))
    path = candidate_path(fit)
    leaving = [int((path.exits(candidate, fit) < 2).sum()) for candidate in range(5)]
    assert leaving == [0, 1, 2, 3, 4]
    assert len(path) > 100


def test_an_exit_that_is_never_the_first_to_answer_is_disabled(rng: np.random.Generator) -> None:
    good = 0.5 + rng.random(200) / 2
    fit = np.stack([good, good / 2, good])
    assert candidate_path(fit).enabled.any(axis=0).tolist() == [True, False, False]


def test_saturated_signals_are_let_out_below_1(rng: np.random.Generator) -> None:
    fit = np.where(rng.random((1, 100)) < 0.9, 1.0, 0.9)
    path = candidate_path(fit)
    assert path.enabled[:, 0].tolist() == [False, True, True]
    assert 0.9 < path.thresholds[1, 0] < 1.0


def test_one_signal_for_all_leaves_two_candidates() -> None:
    path = candidate_path(np.full((2, 30), 0.25))
    assert path.thresholds.tolist() == [[1.0, 1.0], [0.0, 0.0]]
    assert path.enabled.tolist() == [[False, False], [True, False]]


def test_without_early_exits_the_path_is_one_point() -> None:
    path = candidate_path(np.empty((0, 30)))
    assert len(path) == 1
    assert path.exits(0, np.empty((0, 4))).tolist() == [0, 0, 0, 0]


def test_candidates_exit_as_the_runtime_rule_says(rng: np.random.Generator) -> None:
    logits = rng.normal(scale=2.0, size=(4, 80, 5)).astype(np.float32)
    temperatures = (0.7, 1.0, 2.5, 1.0)
    signals = np.stack(
        [signal_values(probabilities(logits[s], temperatures[s]), "margin") for s in range(3)]
    )
    path = CandidatePath(thresholds=np.full((1, 3), 0.5), enabled=np.array([[True, False, True]]))
    policy = Policy(
        name="default",
        program="litert/float32",
        signal="margin",
        temperatures=temperatures,
        thresholds=(0.5, 1.0, 0.5, 0.0),
        enabled=(True, False, True, True),
    )
    np.testing.assert_array_equal(path.exits(0, signals), choose_exits(policy, logits))
