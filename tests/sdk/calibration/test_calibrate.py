"""The whole way: split, fit, walk, certify."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offramp.bundle import Policy
from offramp.calibration import (
    Promises,
    calibrate,
    candidate_path,
    certifies,
    fit_temperature,
    images_needed,
    minimum_samples,
    split_images,
)
from offramp.errors import CalibrationError, DataError, ShapeError, TooFewImagesError
from offramp.policy import choose_exits, probabilities, signal_values

if TYPE_CHECKING:
    from numpy.typing import NDArray

CLASSES = 10
SIGNALS = ("max_probability", "margin", "entropy")


def network(
    rng: np.random.Generator, images: int, *, strength: tuple[float, ...] = (3.0, 5.0, 8.0)
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Exits that grow better, on images that are easy or hard; early ones are over-confident."""
    labels = rng.integers(0, CLASSES, images)
    hardness = rng.gamma(2.0, 1.0, images)
    logits = rng.normal(size=(len(strength), images, CLASSES))
    for exit, power in enumerate(strength):
        logits[exit, np.arange(images), labels] += power - hardness
        logits[exit] *= 3.0 - exit
    return logits.astype(np.float32), labels


def certified(
    logits: Any,
    labels: Any,
    *,
    limit: float = 0.01,
    confidence: float = 0.95,
    reference: Any = "self",
    **arguments: Any,
) -> Policy:
    """The policy for a promise about the accuracy."""
    promises = Promises(accuracy_drop=limit, confidence=confidence, reference=reference)
    return calibrate(logits, labels, promises=promises, **arguments).certified()


def drop(policy: Policy, logits: np.ndarray, labels: np.ndarray) -> float:
    right = logits.argmax(axis=-1) == labels
    left = choose_exits(policy, logits)
    return float(right[-1].mean() - right[left, np.arange(labels.size)].mean())


def early_share(policy: Policy) -> float:
    return 1.0 - policy.exit_shares[-1]


def the(policy: Policy) -> Any:
    (certificate,) = policy.certificates
    return certificate


@pytest.mark.parametrize("signal", SIGNALS)
def test_the_policy_saves_work_and_says_what_it_promises(
    rng: np.random.Generator, signal: Any
) -> None:
    logits, labels = network(rng, 4_000)
    policy = certified(logits, labels, program="litert/int8", signal=signal, name="saver")
    assert (policy.name, policy.program, policy.signal) == ("saver", "litert/int8", signal)
    assert early_share(policy) > 0.3
    assert policy.enabled[-1]
    assert policy.thresholds[-1] == 0.0
    certificate = the(policy)
    assert (certificate.kind, certificate.reference) == ("accuracy_drop", "self")
    assert (certificate.limit, certificate.confidence) == (0.01, 0.95)
    assert (certificate.images_fit, certificate.images_certified) == (1_200, 2_800)
    assert certificate.observed <= certificate.upper_bound <= certificate.limit
    assert "95 %" in certificate.claim
    assert "litert/int8" in certificate.claim
    assert len(certificate.data_sha256) == 64
    assert sum(policy.exit_counts) == 2_800


def test_the_counts_and_the_drop_are_those_of_the_exit_rule(rng: np.random.Generator) -> None:
    logits, labels = network(rng, 2_000)
    policy = certified(logits, labels, program="litert/float32", seed=5)
    held_out = np.random.default_rng(5).permutation(2_000)[600:]
    left = choose_exits(policy, logits[:, held_out])
    assert tuple(np.bincount(left, minlength=3)) == policy.exit_counts
    assert drop(policy, logits[:, held_out], labels[held_out]) == pytest.approx(
        the(policy).observed
    )
    right = logits.argmax(axis=-1) == labels
    assert policy.accuracy == pytest.approx(right[left, held_out].mean())


def test_the_next_candidate_would_not_have_been_certified(rng: np.random.Generator) -> None:
    """The answer is the last certified point of the path and not the first that fails."""
    logits, labels = network(rng, 2_000)
    policy = certified(logits, labels, program="litert/float32")
    held_out = np.random.default_rng(0).permutation(2_000)[600:]
    right = logits.argmax(axis=-1)[:, held_out] == labels[held_out]

    def keeps(threshold: float) -> bool:
        moved = Policy(
            name="moved",
            program=policy.program,
            signal=policy.signal,
            temperatures=policy.temperatures,
            thresholds=(threshold, threshold, 0.0),
            enabled=policy.enabled,
        )
        left = choose_exits(moved, logits[:, held_out])
        drops = right[-1].astype(np.int64) - right[left, np.arange(held_out.size)]
        return certifies(drops, 0.01, 0.95)

    shared = min(policy.thresholds[:2])
    assert keeps(shared)
    assert not keeps(shared - 0.05)


def test_the_promise_is_kept_as_often_as_it_says() -> None:
    """The whole procedure on a network that a plain choice would overrate."""
    rng = np.random.default_rng(7)
    population, truth = network(rng, 40_000, strength=(2.0, 5.0))
    trials, broken, early = 100, 0, 0
    for trial in range(trials):
        chosen = rng.integers(0, truth.size, 1_500)
        policy = certified(
            population[:, chosen],
            truth[chosen],
            program="litert/float32",
            limit=0.01,
            confidence=0.9,
            seed=trial,
        )
        broken += drop(policy, population, truth) > 0.01
        early += policy.enabled[0]
    assert broken <= trials * 0.1 + 3 * math.sqrt(trials * 0.1 * 0.9)
    assert early > 0.9 * trials


def test_a_path_that_runs_straight_through_the_limit_is_stopped_in_time() -> None:
    """The hardest case: a signal that says nothing, so that the drop grows with each candidate."""
    rng = np.random.default_rng(11)
    images, limit, trials = 20_000, 0.02, 150
    labels = rng.integers(0, 2, images)
    wrong = rng.random(images) < 2 * limit
    # The last exit is always right; the first is wrong at random, however sure it is.
    sure = rng.uniform(0.1, 5.0, images)
    logits = np.zeros((2, images, 2), np.float32)
    logits[0, np.arange(images), np.where(wrong, 1 - labels, labels)] = sure
    logits[1, np.arange(images), labels] = 5.0
    broken = 0
    for trial in range(trials):
        chosen = rng.integers(0, images, 1_000)
        policy = certified(
            logits[:, chosen],
            labels[chosen],
            program="litert/float32",
            limit=limit,
            confidence=0.8,
            seed=trial,
        )
        broken += drop(policy, logits, labels) > limit
    assert 0 < broken <= trials * 0.2 + 3 * math.sqrt(trials * 0.2 * 0.8)


@given(st.integers(0, 2**32), st.sampled_from(SIGNALS), st.floats(0.05, 0.4))
@settings(max_examples=25, deadline=None)
def test_it_is_what_walking_the_path_image_by_image_finds(
    number: int, signal: Any, limit: float
) -> None:
    rng = np.random.default_rng(number)
    logits, labels = network(rng, 150)
    policy = certified(
        logits, labels, program="litert/float32", limit=limit, confidence=0.6, signal=signal
    )
    parts = split_images(150, Promises(accuracy_drop=limit, confidence=0.6))
    fit, held_out = parts.fit, parts.certify
    temperatures = [fit_temperature(logits[exit, fit], labels[fit]) for exit in range(2)]
    sure = np.stack(
        [signal_values(probabilities(logits[s], temperatures[s]), signal) for s in range(2)]
    )
    path = candidate_path(sure[:, fit])
    expected = 0
    for candidate in range(1, len(path)):
        log_wealth, best, total, squares, gone = 0.0, -math.inf, 0.0, 0.0, 0
        for place, image in enumerate(held_out, start=1):
            answer = logits[2, image].argmax()
            for exit in (1, 0):
                threshold = path.thresholds[candidate, exit]
                if path.enabled[candidate, exit] and sure[exit, image] >= threshold:
                    answer = logits[exit, image].argmax()
            gap = int(logits[2, image].argmax() == labels[image]) - int(answer == labels[image])
            bet = min(
                math.sqrt(2 * math.log(1 / 0.4) * place / (len(held_out) * (0.05 + squares))),
                0.75 / (1 - limit),
            )
            log_wealth += math.log(1 - bet * (gap - limit))
            best = max(best, log_wealth)
            total += gap
            squares += (gap - total / (place + 1)) ** 2
            gone += gap
        if best < math.log(1 / 0.4) or gone > limit * len(held_out):
            break
        expected = candidate
    assert policy.enabled == (*path.enabled[expected], True)
    assert all(
        threshold == path.thresholds[expected, 0]
        for threshold, enabled in zip(policy.thresholds[:2], policy.enabled[:2], strict=True)
        if enabled
    )


def test_a_stricter_limit_never_lets_more_out(rng: np.random.Generator) -> None:
    logits, labels = network(rng, 3_000)
    policies = [
        certified(logits, labels, program="litert/float32", limit=limit)
        for limit in (0.005, 0.01, 0.02, 0.05)
    ]
    exits = [choose_exits(policy, logits) for policy in policies]
    for stricter, looser in itertools.pairwise(exits):
        assert (looser <= stricter).all()
    assert early_share(policies[0]) < early_share(policies[-1])


def test_more_confidence_never_lets_more_out(rng: np.random.Generator) -> None:
    logits, labels = network(rng, 3_000)
    shares = [
        early_share(certified(logits, labels, program="litert/float32", confidence=confidence))
        for confidence in (0.5, 0.9, 0.99)
    ]
    assert shares == sorted(shares, reverse=True)


def test_the_names_of_classes_do_not_matter(rng: np.random.Generator) -> None:
    logits, labels = network(rng, 1_500)
    order = rng.permutation(CLASSES)
    one = certified(logits, labels, program="litert/float32")
    other = certified(logits[..., order], np.argsort(order)[labels], program="litert/float32")
    assert one.exit_counts == other.exit_counts
    np.testing.assert_allclose(one.thresholds, other.thresholds, rtol=1e-6)
    np.testing.assert_allclose(one.temperatures, other.temperatures, rtol=1e-6)


def test_the_same_seed_gives_the_same_policy_and_another_seed_another_split(
    rng: np.random.Generator,
) -> None:
    logits, labels = network(rng, 1_500)
    first = certified(logits, labels, program="litert/float32", seed=3)
    assert first == certified(logits, labels, program="litert/float32", seed=3)
    other = certified(logits, labels, program="litert/float32", seed=4)
    assert first.temperatures != other.temperatures
    assert the(first).data_sha256 == the(other).data_sha256


def test_the_fingerprint_changes_with_the_data(rng: np.random.Generator) -> None:
    logits, labels = network(rng, 1_500)
    first = certified(logits, labels, program="litert/float32")
    logits[0, 0, 0] += 1
    assert the(certified(logits, labels, program="litert/float32")).data_sha256 != (
        the(first).data_sha256
    )


def test_exits_that_know_nothing_are_all_disabled(rng: np.random.Generator) -> None:
    logits, labels = network(rng, 1_500, strength=(0.0, 12.0))
    # Sure of itself, and wrong on every second image, whatever its signal.
    wrong = np.where(rng.random(1_500) < 0.5, labels, (labels + 1) % CLASSES)
    logits[0] = 20 * np.eye(CLASSES, dtype=np.float32)[wrong]
    policy = certified(logits, labels, program="litert/float32")
    assert policy.enabled == (False, True)
    assert policy.exit_shares == (0.0, 1.0)
    assert (the(policy).observed, the(policy).upper_bound) == (0.0, 0.0)
    assert "no early exit" in the(policy).claim


def test_one_exit_has_nothing_to_choose(rng: np.random.Generator) -> None:
    logits, labels = network(rng, 1_500, strength=(5.0,))
    policy = certified(logits, labels, program="litert/float32")
    assert (policy.thresholds, policy.enabled) == ((0.0,), (True,))


def test_against_the_float_network_its_loss_counts_too(rng: np.random.Generator) -> None:
    logits, labels = network(rng, 4_000, strength=(3.0, 5.0, 6.0))
    better = logits[-1].copy()
    rescued = rng.random(4_000) < 0.1
    better[rescued] = 20 * np.eye(CLASSES, dtype=np.float32)[labels[rescued]]
    own = certified(logits, labels, program="litert/int8", limit=0.02)
    against_float = certified(
        logits,
        labels,
        program="litert/int8",
        limit=0.02,
        reference="float",
        reference_logits=better,
    )
    assert the(against_float).reference == "float"
    assert "the float network" in the(against_float).claim
    assert early_share(against_float) < early_share(own)


def test_the_same_float_network_costs_nothing(rng: np.random.Generator) -> None:
    logits, labels = network(rng, 2_000)
    own = certified(logits, labels, program="litert/int8")
    against_float = certified(
        logits, labels, program="litert/int8", reference="float", reference_logits=logits[-1]
    )
    assert own.thresholds == against_float.thresholds


def test_a_program_that_lost_too_much_already_is_refused_with_what_it_lost(
    rng: np.random.Generator,
) -> None:
    logits, labels = network(rng, 2_000)
    perfect = np.eye(CLASSES, dtype=np.float32)[labels]
    with pytest.raises(
        CalibrationError, match=r"accuracy_drop of 1.00%.*itself, accuracy_drop of \d"
    ):
        certified(
            logits, labels, program="litert/int8", reference="float", reference_logits=perfect
        )


def test_too_few_images_are_told_how_many_it_takes(rng: np.random.Generator) -> None:
    logits, labels = network(rng, 500)
    with pytest.raises(TooFewImagesError, match="350 for the certificate") as caught:
        certified(logits, labels, program="litert/float32")
    assert caught.value.got == 350
    assert caught.value.needed == minimum_samples(0.01, 0.95)


def test_the_number_it_takes_is_enough(rng: np.random.Generator) -> None:
    logits, labels = network(rng, 500, strength=(9.0, 9.0))
    logits[0] = logits[1]
    with pytest.raises(TooFewImagesError) as caught:
        certified(logits[:, :9], labels[:9], program="litert/float32", limit=0.02)
    total = math.ceil(caught.value.needed / 0.7) + 1
    policy = certified(logits[:, :total], labels[:total], program="litert/float32", limit=0.02)
    assert early_share(policy) > 0


@pytest.mark.parametrize("images", [0, 1, 567])
def test_images_can_be_counted_before_there_are_logits(images: int) -> None:
    promises = Promises(accuracy_drop=0.01)
    with pytest.raises(TooFewImagesError, match=r"at least 398 \(568 images in all\)"):
        split_images(images, promises)
    assert images_needed(promises) == 568
    parts = split_images(568, promises, seed=2)
    assert sorted([*parts.fit, *parts.certify]) == list(range(568))


@pytest.mark.parametrize(("limit", "confidence"), [(0.0, 0.95), (0.01, 1.0), (2.0, 0.5)])
def test_a_promise_that_no_number_of_images_keeps_is_refused(
    limit: float, confidence: float
) -> None:
    with pytest.raises(CalibrationError, match="above 0 and below 1"):
        minimum_samples(limit, confidence)
    with pytest.raises(CalibrationError, match="above 0 and below 1"):
        Promises(accuracy_drop=limit, confidence=confidence)


def test_no_images_at_all() -> None:
    with pytest.raises(TooFewImagesError, match="got 0 images"):
        certified(np.empty((2, 0, 3)), np.empty(0, dtype=np.int64), program="litert/float32")


LOGITS = np.zeros((2, 6, 3), dtype=np.float32)
LABELS = np.zeros(6, dtype=np.int64)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"logits": LOGITS[0]}, ShapeError, r"\(exits, images, classes\)"),
        ({"logits": LOGITS[..., :1]}, ShapeError, "two classes"),
        ({"logits": LOGITS.astype(str)}, ShapeError, "numbers"),
        ({"logits": np.full_like(LOGITS, np.nan)}, DataError, "36 values"),
        ({"logits": np.full_like(LOGITS, np.inf)}, DataError, "finite"),
        ({"labels": LABELS[:5]}, ShapeError, r"\(6,\) integers"),
        ({"labels": LABELS.astype(float)}, ShapeError, "float64"),
        ({"labels": LABELS + 3}, DataError, "between 0 and 2.*3 to 3"),
        ({"labels": LABELS - 1}, DataError, "between 0 and 2"),
        ({"limit": 0.0}, CalibrationError, "accuracy_drop"),
        ({"limit": 1.0}, CalibrationError, "accuracy_drop"),
        ({"limit": float("nan")}, CalibrationError, "accuracy_drop"),
        ({"confidence": 1.0}, CalibrationError, "confidence"),
        ({"fit_fraction": 0.0}, CalibrationError, "fit_fraction"),
        ({"signal": "energy"}, CalibrationError, "margin"),
        ({"reference": "torch"}, CalibrationError, "'float'"),
        ({"reference": "float"}, CalibrationError, "reference_logits"),
        ({"reference_logits": LOGITS[0]}, CalibrationError, "reference_logits"),
        (
            {"reference": "float", "reference_logits": LOGITS[0, :2]},
            ShapeError,
            r"reference_logits must be \(6, 3\)",
        ),
    ],
)
def test_bad_input_is_named_in_one_sentence(
    change: dict[str, Any], error: type[Exception], message: str
) -> None:
    arguments: dict[str, Any] = {"logits": LOGITS, "labels": LABELS, "program": "litert/float32"}
    with pytest.raises(error, match=message) as caught:
        certified(**(arguments | change))
    assert "\n" not in str(caught.value)
