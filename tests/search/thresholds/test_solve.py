from __future__ import annotations

import itertools
import math
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offramp.errors import DataError, InfeasibleBudgetError, ShapeError
from offramp.policy import Policy, choose_exits, probabilities, signal_values
from offramp_search.thresholds import Solution, curve, solve

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIGNALS = ("max_probability", "margin", "entropy")


def policy_of(solution: Solution) -> Policy:
    return Policy(
        name="default",
        program="litert/float32",
        signal=solution.signal,  # type: ignore[arg-type]
        temperatures=(1.0,) * len(solution.thresholds),
        thresholds=solution.thresholds,
        enabled=solution.enabled,
    )


def outcome(
    logits: NDArray[np.float32],
    labels: NDArray[np.int64],
    stage_ms: tuple[float, ...],
    exits: NDArray[np.int64],
) -> tuple[int, float]:
    images = np.arange(len(labels))
    correct = int((logits.argmax(axis=2)[exits, images] == labels).sum())
    return correct, float(np.cumsum(stage_ms)[exits].mean())


def brute_force(
    logits: NDArray[np.float32],
    labels: NDArray[np.int64],
    stage_ms: tuple[float, ...],
    limit: float,
    signal: str,
    *,
    shared: bool,
) -> tuple[int, float]:
    """The best (images right, -mean ms) over all thresholds there are."""
    sure = [signal_values(probabilities(exit), signal) for exit in logits[:-1]]
    choices = [[math.inf, *values.tolist()] for values in sure]
    if shared:
        values = [value for choice in choices for value in choice]
        vectors = {(math.inf,) * len(sure)} | {
            tuple(value if on else math.inf for on in mask)
            for value in values
            for mask in itertools.product((False, True), repeat=len(sure))
        }
    else:
        vectors = set(itertools.product(*choices))
    best = (-1, 0.0)
    for thresholds in vectors:
        exits = np.full(len(labels), len(logits) - 1)
        for exit in reversed(range(len(sure))):
            exits[sure[exit] >= thresholds[exit]] = exit
        correct, mean_ms = outcome(logits, labels, stage_ms, exits)
        if mean_ms <= limit * (1 + 1e-12):
            best = max(best, (correct, -mean_ms))
    return best


@st.composite
def problems(
    draw: st.DrawFn,
) -> tuple[NDArray[np.float32], NDArray[np.int64], tuple[float, ...], float, str]:
    exits = draw(st.integers(1, 3))
    images = draw(st.integers(1, 9))
    classes = draw(st.integers(2, 3))
    # Few distinct logits, so that ties between signals are common.
    values = st.sampled_from([-2.0, -0.5, 0.0, 0.5, 3.0])
    logits = np.asarray(
        draw(st.lists(values, min_size=exits * images * classes, max_size=exits * images * classes))
    ).reshape(exits, images, classes)
    labels = np.asarray(
        draw(st.lists(st.integers(0, classes - 1), min_size=images, max_size=images))
    )
    stage_ms = tuple(draw(st.sampled_from([0.25, 1.0, 3.5])) for _ in range(exits))
    limit = stage_ms[0] + draw(st.floats(0, 6))
    signal = draw(st.sampled_from(SIGNALS))
    return logits.astype(np.float32), labels.astype(np.int64), stage_ms, limit, signal


@settings(deadline=None, max_examples=150)
@given(problems(), st.booleans())
def test_no_thresholds_are_better(
    problem: tuple[NDArray[np.float32], NDArray[np.int64], tuple[float, ...], float, str],
    refine: bool,
) -> None:
    logits, labels, stage_ms, limit, signal = problem
    solution = solve(logits, labels, stage_ms, mean_ms=limit, signal=signal, refine=refine)
    correct, negative_ms = brute_force(logits, labels, stage_ms, limit, signal, shared=not refine)
    assert solution.accuracy == correct / len(labels)
    assert solution.mean_ms == pytest.approx(-negative_ms)


@settings(deadline=None, max_examples=150)
@given(problems())
def test_the_solution_is_what_the_runtime_does(
    problem: tuple[NDArray[np.float32], NDArray[np.int64], tuple[float, ...], float, str],
) -> None:
    logits, labels, stage_ms, limit, signal = problem
    solutions = (
        solve(logits, labels, stage_ms, mean_ms=limit, signal=signal),
        *curve(logits, labels, stage_ms, signal=signal),
    )
    for solution in solutions:
        exits = choose_exits(policy_of(solution), logits)
        correct, mean_ms = outcome(logits, labels, stage_ms, exits)
        assert solution.accuracy == correct / len(labels)
        assert solution.mean_ms == pytest.approx(mean_ms)
        shares = np.bincount(exits, minlength=len(logits)) / len(labels)
        assert solution.exit_shares == tuple(shares.tolist())


@settings(deadline=None, max_examples=100)
@given(problems())
def test_the_curve_holds_the_shared_solution_of_every_limit(
    problem: tuple[NDArray[np.float32], NDArray[np.int64], tuple[float, ...], float, str],
) -> None:
    logits, labels, stage_ms, limit, signal = problem
    points = curve(logits, labels, stage_ms, signal=signal)
    assert [point.mean_ms for point in points] == sorted(point.mean_ms for point in points)
    accuracies = [point.accuracy for point in points]
    assert accuracies == sorted(set(accuracies))
    solution = solve(logits, labels, stage_ms, mean_ms=limit, signal=signal, refine=False)
    reachable = [point for point in points if point.mean_ms <= limit * (1 + 1e-12)]
    assert reachable[-1].accuracy == solution.accuracy
    assert reachable[-1].mean_ms == pytest.approx(solution.mean_ms)


def multi_exit(
    rng: np.random.Generator, images: int, skill: tuple[float, ...]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Exits that know more and more, on images that are more or less easy."""
    labels = rng.integers(0, 10, images)
    easy = rng.uniform(0, 1, images)
    logits = rng.normal(0, 1, (len(skill), images, 10))
    for exit, level in enumerate(skill):
        logits[exit, np.arange(images), labels] += 6 * level * easy
    return logits.astype(np.float32), labels


def test_three_exits_and_five_thousand_images_take_a_moment(
    rng: np.random.Generator,
) -> None:
    logits, labels = multi_exit(rng, 5000, (0.5, 0.8, 1.0))
    solve(logits, labels, (1.0, 2.0, 3.0), mean_ms=3.0)
    times = []
    for _ in range(9):
        start = time.perf_counter()
        solve(logits, labels, (1.0, 2.0, 3.0), mean_ms=3.0)
        times.append(1000 * (time.perf_counter() - start))
    # About 30 ms on a quiet machine; the limit is for one that does something else.
    assert min(times) < 250


def test_a_higher_limit_is_never_less_accurate(rng: np.random.Generator) -> None:
    logits, labels = multi_exit(rng, 1000, (0.5, 0.8, 1.0))
    accuracies = [
        solve(logits, labels, (1.0, 2.0, 3.0), mean_ms=limit, refine=False).accuracy
        for limit in np.linspace(1, 6, 12)
    ]
    assert accuracies == sorted(accuracies)
    assert accuracies[0] < accuracies[-1]


def test_own_thresholds_are_at_least_as_good_as_a_shared_one(rng: np.random.Generator) -> None:
    logits, labels = multi_exit(rng, 1000, (0.4, 0.6, 0.7, 1.0))
    # An exit that is sure of everything spoils a shared threshold.
    logits[1] *= 5
    shared = solve(logits, labels, (1.0,) * 4, mean_ms=2.5, refine=False)
    own = solve(logits, labels, (1.0,) * 4, mean_ms=2.5)
    assert own.accuracy > shared.accuracy
    assert own.mean_ms <= 2.5 * (1 + 1e-12)


def test_an_exit_that_knows_nothing_is_disabled(rng: np.random.Generator) -> None:
    logits, labels = multi_exit(rng, 500, (0.5, 0.8, 1.0))
    logits[0] = 9.0 * np.eye(10)[(labels + 1) % 10]  # sure, and always wrong
    solution = solve(logits, labels, (1.0, 2.0, 3.0), mean_ms=6.0)
    assert solution.enabled[0] is False
    assert solution.enabled[-1] is True
    assert solution.thresholds[0] == 1.0
    assert solution.thresholds[-1] == 0.0


def test_without_a_limit_the_fastest_of_the_most_accurate_is_taken() -> None:
    labels = np.asarray([0, 1])
    logits = np.zeros((2, 2, 2), dtype=np.float32)
    logits[:, np.arange(2), labels] = 4.0  # both exits are right about both images
    solution = solve(logits, labels, (1.0, 9.0))
    assert solution.accuracy == 1.0
    assert solution.mean_ms == 1.0
    assert solution.thresholds[0] == 0.0


def test_a_static_network_has_one_solution() -> None:
    logits = np.asarray([[[3.0, 0.0], [3.0, 0.0]]], dtype=np.float32)
    solution = solve(logits, np.asarray([0, 1]), (2.0,), mean_ms=2.0)
    assert solution == Solution("max_probability", (0.0,), (True,), 0.5, 2.0, (1.0,))
    assert curve(logits, np.asarray([0, 1]), (2.0,)) == (solution,)


def test_a_limit_that_stage_0_breaks_is_infeasible(rng: np.random.Generator) -> None:
    logits, labels = multi_exit(rng, 50, (0.5, 1.0))
    with pytest.raises(InfeasibleBudgetError, match=r"stage 0 alone takes 2 ms") as caught:
        solve(logits, labels, (2.0, 2.0), mean_ms=1.5)
    assert caught.value.smallest == 2.0


def test_temperatures_count(rng: np.random.Generator) -> None:
    logits, labels = multi_exit(rng, 400, (0.5, 1.0))
    hot = solve(logits, labels, (1.0, 2.0), mean_ms=2.0, temperatures=(4.0, 1.0))
    cold = solve(logits * np.float32(0.25), labels, (1.0, 2.0), mean_ms=2.0)
    assert hot == cold


def test_what_does_not_fit_is_refused(rng: np.random.Generator) -> None:
    logits, labels = multi_exit(rng, 20, (0.5, 1.0))
    with pytest.raises(ShapeError, match=r"\(exits, images, classes\)"):
        solve(logits[0], labels, (1.0,))
    with pytest.raises(ShapeError, match="1 stage latencies"):
        solve(logits, labels, (1.0,))
    with pytest.raises(DataError, match="no image"):
        solve(logits[:, :0], labels[:0], (1.0, 1.0))
    with pytest.raises(DataError, match="not finite"):
        solve(logits * np.float32(np.nan), labels, (1.0, 1.0))
    with pytest.raises(DataError, match="stage latencies"):
        solve(logits, labels, (1.0, math.nan))
