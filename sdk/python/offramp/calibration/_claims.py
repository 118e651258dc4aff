"""Promises as sentences."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from offramp.bundle import CertificateKind
    from offramp.calibration._promises import Promises

__all__ = ["METHODS", "claim"]

METHODS: dict[CertificateKind, str] = {
    "accuracy_drop": "fixed-sequence betting test",
    "class_drop": "fixed-sequence betting test of every class (intersection-union)",
    "disagreement": "fixed-sequence exact binomial test",
    "early_exit_drop": "fixed-sequence betting test of the images that leave early",
    "mean_latency": "fixed-sequence betting test on upper limits of the stages' means",
    "selective_error": "fixed-sequence exact binomial test of the answers given",
    "tail_latency": "order statistics of the latency; exact binomial test of the exits",
}


def claim(kind: CertificateKind, program: str, promises: Promises, *, any_early: bool) -> str:
    """One certificate in one sentence.

    Args:
        kind: What is limited.
        program: ``runtime/precision``.
        promises: The limits.
        any_early: Whether the policy has an early exit.
    """
    own = promises.reference == "self"
    against = "its own last exit" if own else "the float network"
    if kind in ("accuracy_drop", "class_drop", "disagreement") and own and not any_early:
        return f"{program} has no early exit enabled, so nothing is lost against {against}."
    subject = f"With {100 * promises.confidence:.4g} % confidence, "
    where = "on images drawn like the calibration images."
    accuracy = f"the accuracy of {program} under this policy is at most "
    if kind == "accuracy_drop":
        limit = _percent(promises.accuracy_drop)
        return f"{subject}{accuracy}{limit} (absolute) below that of {against}, {where}"
    if kind == "early_exit_drop":
        limit = _percent(promises.early_exit_drop)
        return (
            f"{subject}among the images that leave early {accuracy}{limit} (absolute) below that "
            f"of {against}, {where}"
        )
    if kind == "class_drop":
        limit = _percent(promises.class_drop)
        return (
            f"{subject}in every single class {accuracy}{limit} (absolute) below that of "
            f"{against}, {where}"
        )
    if kind == "disagreement":
        limit = _percent(promises.disagreement)
        return (
            f"{subject}{program} under this policy answers at most {limit} of the images unlike "
            f"{against}, so its accuracy is at most {limit} (absolute) below, {where}"
        )
    if kind == "selective_error":
        limit = _percent(promises.selective_error)
        return (
            f"{subject}at most {limit} of the answers that {program} gives under this policy, and "
            f"does not withhold, are wrong, {where}"
        )
    device = "on the device and in the state it was measured in, and"
    if kind == "mean_latency":
        return (
            f"{subject}the stages of {program} take at most {promises.mean_ms:.4g} ms an image in "
            f"the mean under this policy, {device} {where}"
        )
    return (
        f"{subject}the stages of {program} take at most {promises.tail_ms:.4g} ms for at least "
        f"{100 * promises.quantile:.4g} % of the images under this policy, {device} {where}"
    )


def _percent(limit: float | None) -> str:
    assert limit is not None
    return f"{100 * limit:.4g} %"
