"""New images confirm a promise, refute it, or are too few to tell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest

from offramp.calibration import Promises, calibrate, recheck
from offramp.errors import ShapeError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from offramp.bundle import Policy
    from offramp.calibration import CertificateCheck

CLASSES = 5


def network(
    rng: np.random.Generator, images: int, *, worse: float = 0.0
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """``worse`` turns a share of the sure answers of the early exits into wrong ones."""
    labels = rng.integers(0, CLASSES, images)
    hardness = rng.gamma(2.0, 1.0, images)
    logits = rng.normal(size=(3, images, CLASSES))
    for exit, power in enumerate((3.0, 5.0, 8.0)):
        logits[exit, np.arange(images), labels] += power - hardness
    turned = rng.random(images) < worse
    for exit in (0, 1):
        logits[exit, turned] = 9 * np.eye(CLASSES)[(labels[turned] + 1) % CLASSES]
    return logits.astype(np.float32), labels


def policy_for(rng: np.random.Generator, promises: Promises, **arguments: Any) -> Policy:
    logits, labels = network(rng, 6_000)
    return calibrate(
        logits, labels, program="litert/int8", promises=promises, **arguments
    ).certified()


def verdicts(checks: tuple[CertificateCheck, ...]) -> dict[str, str]:
    return {check.kind: check.verdict for check in checks}


ALL = Promises(
    accuracy_drop=0.03,
    early_exit_drop=0.06,
    class_drop=0.08,
    disagreement=0.06,
    selective_error=0.1,
)


def test_images_like_those_before_confirm_everything(rng: np.random.Generator) -> None:
    policy = policy_for(rng, ALL)
    checks = recheck(policy, *network(rng, 20_000))
    assert set(verdicts(checks)) == {certificate.kind for certificate in policy.certificates}
    assert set(verdicts(checks).values()) == {"confirmed"}
    for check in checks:
        assert check.observed <= check.upper_bound <= check.limit


def test_images_on_which_it_errs_refute_everything(rng: np.random.Generator) -> None:
    policy = policy_for(rng, ALL)
    checks = recheck(policy, *network(rng, 5_000, worse=0.4))
    assert set(verdicts(checks).values()) == {"broken"}
    assert all(check.observed > check.limit for check in checks)


def test_a_few_images_cannot_tell(rng: np.random.Generator) -> None:
    policy = policy_for(rng, ALL)
    assert set(verdicts(recheck(policy, *network(rng, 12))).values()) == {"undecided"}


def test_without_labels_only_some_can_be_asked(rng: np.random.Generator) -> None:
    policy = policy_for(rng, ALL)
    logits, _ = network(rng, 5_000)
    checks = recheck(policy, logits)
    assert verdicts(checks) == {
        "accuracy_drop": "not checked",
        "class_drop": "not checked",
        "disagreement": "confirmed",
        "early_exit_drop": "not checked",
        "selective_error": "not checked",
    }
    assert "labelled" in checks[0].reason


def test_where_images_leave_decides_about_latencies(rng: np.random.Generator) -> None:
    promises = Promises(mean_ms=2.3, tail_ms=2.5, quantile=0.5, cap="soft")
    policy = policy_for(rng, promises, latency=(1.0, 1.0, 1.0))
    logits, _ = network(rng, 5_000)
    # Calibrated up to the limit, so that as many new images may just miss certifying it again.
    assert "broken" not in verdicts(recheck(policy, logits)).values()
    # Nobody is ever sure: all go on to the last exit.
    checks = recheck(policy, logits * 1e-3)
    assert set(verdicts(checks).values()) == {"broken"}
    assert checks[0].observed == pytest.approx(3.0)


def test_a_hard_cap_holds_whatever_the_images(rng: np.random.Generator) -> None:
    policy = policy_for(rng, Promises(tail_ms=2.5), latency=(1.0, 1.0, 1.0))
    logits, _ = network(rng, 3)
    (check,) = recheck(policy, logits * 1e-3)
    assert (check.verdict, check.reason) == ("confirmed", "by construction, whatever the images")


def test_no_early_exit_holds_whatever_the_images(rng: np.random.Generator) -> None:
    logits, labels = network(rng, 3_000, worse=1.0)
    policy = calibrate(logits, labels, program="litert/int8").certified()
    assert not any(policy.enabled[:-1])
    (check,) = recheck(policy, *network(rng, 4))
    assert check.verdict == "confirmed"


def test_the_float_network_has_to_be_there(rng: np.random.Generator) -> None:
    logits, labels = network(rng, 6_000)
    promises = Promises(accuracy_drop=0.03, reference="float")
    policy = calibrate(
        logits, labels, program="litert/int8", promises=promises, reference_logits=logits[-1]
    ).certified()
    new, truth = network(rng, 5_000)
    (check,) = recheck(policy, new, truth)
    assert (check.verdict, "float network" in check.reason) == ("not checked", True)
    (check,) = recheck(policy, new, truth, reference_logits=new[-1])
    assert check.verdict == "confirmed"
    (check,) = recheck(policy, new, truth, reference_logits=np.eye(CLASSES)[truth])
    assert check.observed > 0.03


def test_a_kept_promise_is_rarely_called_broken(rng: np.random.Generator) -> None:
    """Exactly at the limit, which is the worst case."""
    policy = policy_for(rng, Promises(disagreement=0.05, confidence=0.9))
    population, labels = network(rng, 20_000)
    (truth,) = recheck(policy, population, labels)
    exact = msgspec.structs.replace(policy.certificates[0], limit=truth.observed)
    at_limit = msgspec.structs.replace(policy, certificates=(exact,))
    trials, broken = 300, 0
    for _ in range(trials):
        drawn = rng.integers(0, 20_000, 500)
        (check,) = recheck(at_limit, population[:, drawn], labels[drawn])
        broken += check.verdict == "broken"
    assert broken <= trials * 0.1 + 3 * (trials * 0.1 * 0.9) ** 0.5


def test_another_number_of_exits_is_refused(rng: np.random.Generator) -> None:
    policy = policy_for(rng, Promises(accuracy_drop=0.03))
    logits, labels = network(rng, 50)
    with pytest.raises(ShapeError, match="for 3 exits, the logits are of 2"):
        recheck(policy, logits[:2], labels)
