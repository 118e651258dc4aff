"""Whether a certificate still holds on images that had no part in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, final

import numpy as np

from offramp.calibration._inputs import check_inputs
from offramp.calibration._promised import Answers, latency_quantity
from offramp.calibration._quantity import Quantity
from offramp.errors import ShapeError
from offramp.policy import choose_exits, probabilities, signal_values

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from offramp.bundle import Certificate, CertificateKind, Policy

__all__ = ["CertificateCheck", "Verdict", "recheck"]

Verdict = Literal["confirmed", "undecided", "broken", "not checked"]
"""What new images say: they certify the limit again; they neither certify nor refute it; they
refute it; they cannot be asked."""


@final
@dataclass(frozen=True, slots=True)
class CertificateCheck:
    """One certificate on new images.

    Attributes:
        kind: What is limited.
        limit: What was promised of it; for ``tail_latency`` the share of the images that may leave
            at exits that can be too slow.
        verdict: What the images say, at the certificate's own confidence.
        images: Images it was looked at on: all, or those that the promise is about.
        observed: The value seen on them, in the unit of the limit.
        upper_bound: The smallest limit they certify.
        reason: Why it was not checked, or what else there is to know; may be empty.
    """

    kind: CertificateKind
    limit: float
    verdict: Verdict
    images: int = 0
    observed: float = 0.0
    upper_bound: float = 0.0
    reason: str = ""


def recheck(
    policy: Policy,
    logits: ArrayLike,
    labels: ArrayLike | None = None,
    *,
    reference_logits: ArrayLike | None = None,
) -> tuple[CertificateCheck, ...]:
    """Check every certificate of a policy on new images.

    ``broken`` says that the images refute the promise at the certificate's confidence, so that a
    promise that is kept is called broken with at most the probability left. ``confirmed`` says
    that they would certify it again, all by themselves. In between they are too few to tell.
    Latencies are not measured again: what is checked is where images leave, at the times that the
    certificate recorded.

    Args:
        policy: With its certificates.
        logits: ``(exits, images, classes)``, from the policy's program on the new images.
        labels: ``(images,)`` integers, if they are known.
        reference_logits: ``(images, classes)``, the float network's last exit on the same images;
            asked for by certificates with that reference.

    Raises:
        ShapeError: An array has the wrong shape or dtype, or the policy another number of exits.
        DataError: Logits are not finite, or a label names no class.
    """
    given = check_inputs(
        logits,
        labels,
        signal=policy.signal,
        reference="self" if reference_logits is None else "float",
        reference_logits=reference_logits,
    )
    if len(given.logits) != len(policy.enabled):
        raise ShapeError(
            f"the policy is for {len(policy.enabled)} exits, the logits are of {len(given.logits)}"
        )
    exits = choose_exits(policy, given.logits)
    own = Answers.of(
        check_inputs(logits, labels, signal=policy.signal, reference="self", reference_logits=None)
    )
    beside_float = None if reference_logits is None else Answers.of(given)
    checks = []
    for certificate in policy.certificates:
        answers = own if certificate.reference != "float" else beside_float
        reason = _missing(certificate, answers)
        if answers is None or reason:
            checks.append(
                CertificateCheck(certificate.kind, certificate.limit, "not checked", reason=reason)
            )
        else:
            quantity, left = _quantity(certificate, policy, given.logits, answers, exits)
            checks.append(_check(certificate, policy, quantity, left))
    return tuple(checks)


def _missing(certificate: Certificate, answers: Answers | None) -> str:
    if answers is None:
        return "the float network's answers on these images are not known"
    if answers.labels is None and certificate.kind in (
        *("accuracy_drop", "class_drop", "early_exit_drop", "selective_error"),
    ):
        return "it needs labelled images"
    return ""


def _quantity(
    certificate: Certificate,
    policy: Policy,
    logits: NDArray[np.float32],
    answers: Answers,
    exits: NDArray[np.int64],
) -> tuple[Quantity, NDArray[np.int64]]:
    """What is limited, and where the images that it is about leave."""
    kind, limit, images = certificate.kind, certificate.limit, answers.classes.shape[1]
    if kind == "mean_latency":
        return latency_quantity(limit, np.array(certificate.exit_ms), images), exits
    if kind == "tail_latency":
        assert certificate.quantile is not None
        late = np.array(certificate.exit_ms) > limit
        table = np.repeat(late[:, np.newaxis].astype(np.int64), images, axis=1)
        allowed = (1.0 - certificate.quantile) / 2.0
        return Quantity(kind, allowed, table, exact=True), exits
    if kind == "disagreement":
        return Quantity(kind, limit, answers.unlike(), exact=True), exits
    if kind == "selective_error":
        assert answers.right is not None
        given = np.flatnonzero(_signals(policy, logits, exits) >= (policy.abstain_below or 0.0))
        wrong = 1 - answers.right[:, given].astype(np.int64)
        return Quantity(kind, limit, wrong, exact=True), exits[given]
    if kind == "class_drop":
        assert answers.labels is not None
        return Quantity(kind, limit, answers.drops(), groups=answers.labels), exits
    groups: Literal["all", "early"] = "early" if kind == "early_exit_drop" else "all"
    return Quantity(kind, limit, answers.drops(), groups=groups), exits


def _signals(
    policy: Policy, logits: NDArray[np.float32], exits: NDArray[np.int64]
) -> NDArray[np.float64]:
    """``(images,)``, of the exit each image leaves at."""
    result = np.empty(len(exits))
    for exit in range(len(logits)):
        here = exits == exit
        probability = probabilities(logits[exit, here], policy.temperatures[exit])
        result[here] = signal_values(probability, policy.signal)
    return result


def _check(
    certificate: Certificate, policy: Policy, quantity: Quantity, exits: NDArray[np.int64]
) -> CertificateCheck:
    parts = quantity.parts(exits)
    verdict: Verdict
    reason = ""
    if _cannot_break(certificate, policy, quantity):
        verdict, reason = "confirmed", "by construction, whatever the images"
    elif not parts:
        verdict, reason = "undecided", "no image that it is about was among them"
    elif quantity.refuted(exits, certificate.confidence):
        verdict = "broken"
    elif quantity.certified(exits, certificate.confidence):
        verdict = "confirmed"
    else:
        verdict = "undecided"
    smallest = quantity.smallest(exits, certificate.confidence)
    return CertificateCheck(
        kind=certificate.kind,
        limit=quantity.limit * quantity.scale + quantity.offset,
        verdict=verdict,
        images=sum(part.size for part in parts),
        observed=quantity.observed(exits),
        upper_bound=quantity.offset if reason.startswith("by construction") else smallest,
        reason=reason,
    )


def _cannot_break(certificate: Certificate, policy: Policy, quantity: Quantity) -> bool:
    """Whether the promise is kept whatever the images."""
    reachable = _reachable(policy)
    if certificate.kind in ("mean_latency", "tail_latency"):
        return not quantity.table[reachable].any()
    if certificate.kind == "selective_error":
        return False
    return certificate.reference == "self" and reachable == [len(policy.enabled) - 1]


def _reachable(policy: Policy) -> list[int]:
    """The exits that can answer: none behind one that always does."""
    reachable = []
    last = len(policy.enabled) - 1
    for exit, (enabled, threshold) in enumerate(
        zip(policy.enabled, policy.thresholds, strict=True)
    ):
        if enabled:
            reachable.append(exit)
            if threshold == 0.0 or exit == last:
                break
    return reachable
