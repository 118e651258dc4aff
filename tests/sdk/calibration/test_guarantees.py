"""Every kind of promise is broken as rarely as it says, on a network whose risks are known.

The population is finite and calibration sets are drawn from it with replacement, so that what is
true of a policy is counted. A procedure at exactly its level would fail one of these tests with a
probability of about one in 700 each; the seed is fixed.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest

from offramp.calibration import Promises, calibrate
from offramp.policy import choose_exits, probabilities, signal_values

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from offramp.bundle import Policy

CLASSES, IMAGES, DRAWN, TRIALS, RISK = 4, 10_000, 700, 40, 0.2
MEANS_MS = np.array([1.0, 1.0, 1.0])


def population(rng: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Early exits that are wrong at random, however sure they are: the risk grows all the way."""
    labels = rng.integers(0, CLASSES, IMAGES)
    logits = rng.normal(size=(3, IMAGES, CLASSES)).astype(np.float32)
    for exit, wrong_share in enumerate((0.15, 0.08, 0.04)):
        wrong = rng.random(IMAGES) < wrong_share
        answers = np.where(wrong, (labels + 1) % CLASSES, labels)
        logits[exit, np.arange(IMAGES), answers] += rng.uniform(4.0, 12.0, IMAGES)
    return logits, labels


def truth(
    promises: Promises, policy: Policy, logits: NDArray[np.float32], labels: NDArray[np.int64]
) -> dict[str, float]:
    """What is promised, counted."""
    exits = choose_exits(policy, logits)
    images = np.arange(labels.size)
    answers = logits.argmax(axis=-1)
    taken = answers[exits, images]
    drops = (answers[-1] == labels).astype(float) - (taken == labels)
    early = exits < 2
    probability = probabilities(
        logits[exits, images] / np.array(policy.temperatures)[exits][:, np.newaxis]
    )
    given = signal_values(probability, policy.signal) >= (policy.abstain_below or 0.0)
    values = {
        "accuracy_drop": drops.mean(),
        "early_exit_drop": drops[early].mean() if early.any() else 0.0,
        "class_drop": max(drops[labels == k].mean() for k in range(CLASSES)),
        "disagreement": (taken != answers[-1]).mean(),
        "mean_ms": np.cumsum(MEANS_MS)[exits].mean(),
        "selective_error": (taken != labels)[given].mean() if given.any() else 0.0,
    }
    return {name: float(values[name]) for name in promises.limited}


@pytest.mark.slow
@pytest.mark.parametrize(
    "promises",
    [
        Promises(accuracy_drop=0.04, confidence=1 - RISK),
        Promises(disagreement=0.06, confidence=1 - RISK),
        Promises(early_exit_drop=0.07, confidence=1 - RISK),
        Promises(class_drop=0.06, confidence=1 - RISK),
        Promises(mean_ms=2.0, confidence=1 - RISK),
        Promises(accuracy_drop=0.09, mean_ms=2.7, confidence=1 - RISK),
        Promises(accuracy_drop=0.04, selective_error=0.11, confidence=1 - RISK),
    ],
    ids=lambda promises: " and ".join(promises.limited),
)
def test_a_promise_is_broken_as_rarely_as_it_says(promises: Promises) -> None:
    rng = np.random.default_rng(3)
    logits, labels = population(rng)
    broken = found = 0
    for trial in range(TRIALS):
        drawn = rng.integers(0, IMAGES, DRAWN)
        # Runs of a device whose means are known.
        samples = rng.gamma(25.0, MEANS_MS[:, np.newaxis] / 25.0, (3, 500))
        policy = calibrate(
            logits[:, drawn],
            labels[drawn],
            program="litert/float32",
            promises=promises,
            latency=samples,
            seed=trial,
        ).policy
        if policy is None:
            continue
        found += 1
        values = truth(promises, policy, logits, labels)
        broken += any(value > getattr(promises, name) for name, value in values.items())
    assert found > TRIALS / 2
    assert broken <= TRIALS * RISK + 3 * math.sqrt(TRIALS * RISK * (1 - RISK))


@pytest.mark.slow
def test_what_these_tests_can_see() -> None:
    """Taking the calibration images at their word breaks the promise about every second time."""
    rng = np.random.default_rng(3)
    logits, labels = population(rng)
    right = logits.argmax(axis=-1) == labels
    signals = signal_values(probabilities(logits[0]), "max_probability")
    broken = 0
    for _ in range(TRIALS):
        drawn = rng.integers(0, IMAGES, DRAWN)
        order = drawn[np.argsort(-signals[drawn])]
        drop = np.cumsum(right[2, order].astype(int) - right[0, order]) / DRAWN
        threshold = signals[order[int(np.flatnonzero(drop <= 0.04)[-1])]]
        early = signals >= threshold
        broken += (right[2].astype(int) - right[0])[early].sum() / IMAGES > 0.04
    assert broken > TRIALS * RISK + 3 * math.sqrt(TRIALS * RISK * (1 - RISK))
