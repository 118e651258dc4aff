"""From logits and labels to a policy with its certificate."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Literal

import numpy as np

from offramp.bundle import Certificate, Policy
from offramp.calibration._betting import certifies, smallest_limit
from offramp.calibration._inputs import Inputs, check_inputs
from offramp.calibration._path import candidate_path
from offramp.calibration._split import FIT_FRACTION, split_images
from offramp.calibration._temperature import fit_temperature
from offramp.errors import CalibrationError
from offramp.policy import probabilities, signal_values

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["calibrate"]

_METHOD = "fixed-sequence betting test along a shared threshold"


def calibrate(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    program: str,
    limit: float = 0.01,
    confidence: float = 0.95,
    signal: Literal["max_probability", "margin", "entropy"] = "max_probability",
    reference: Literal["self", "float"] = "self",
    reference_logits: ArrayLike | None = None,
    fit_fraction: float = FIT_FRACTION,
    seed: int = 0,
    name: str = "default",
) -> Policy:
    """Choose when to stop, such that the drop of accuracy is at most ``limit`` with proof.

    The images are shuffled by ``seed`` and parted. On the first part a temperature is fitted to
    each exit and a path of candidate policies is built. On the second part the candidates are
    tested one after the other, from "no early exit" on, until one cannot be shown to keep to the
    limit; the answer is the last one that could. Since the order was fixed beforehand, the
    probability that the answer breaks the limit is at most ``1 - confidence``, whatever the
    network and the images (fixed-sequence testing; Angelopoulos et al. 2021, arXiv 2110.01052,
    section 2.3). What it takes is that future images come from where these came from, and that
    these are independent: frames of one clip, or copies, are not.

    The drop is signed: an image that early exit gets right and the reference wrong counts back.
    It is a mean over all images; among those that leave early it can be larger.

    Args:
        logits: ``(exits, images, classes)``, from the exported program itself.
        labels: ``(images,)`` integers.
        program: ``runtime/precision`` of that program.
        limit: The largest drop of accuracy, a fraction above 0 and below 1.
        confidence: Above 0 and below 1.
        signal: What the threshold is compared with.
        reference: Whose accuracy the drop is counted from: the program's own last exit, or the
            float network behind ``reference_logits``.
        reference_logits: ``(images, classes)``, the float network's last exit on the same images;
            for ``reference="float"`` only.
        fit_fraction: Share of the images for temperatures and the path.
        seed: Seed of the split and of the order of the test.
        name: The policy's name.

    Returns:
        The policy with one certificate. If no early exit can be certified against the program's
        own last exit, all are disabled and the certificate states a drop of 0, which is exact.

    Raises:
        ShapeError: An array has the wrong shape or dtype.
        DataError: Logits are not finite, or a label names no class.
        CalibrationError: An argument is out of range, or the program loses more than ``limit``
            against the float network even without early exits.
        TooFewImagesError: So few images cannot certify the limit, whatever the network does.
    """
    given = check_inputs(
        logits,
        labels,
        signal=signal,
        reference=reference,
        reference_logits=reference_logits,
    )
    fit, certify = split_images(
        given.labels.size, limit=limit, confidence=confidence, fit_fraction=fit_fraction, seed=seed
    )
    early = given.logits.shape[0] - 1
    temperatures = tuple(
        fit_temperature(given.logits[exit, fit], given.labels[fit]) for exit in range(early)
    )
    signals = _signals(given.logits[:early], temperatures, signal)
    path = candidate_path(signals[:, fit])

    right = given.logits.argmax(axis=-1) == given.labels
    reference_right = right[-1] if given.reference is None else given.reference == given.labels

    def outcome(candidate: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        exits = path.exits(candidate, signals[:, certify])
        return exits, reference_right[certify].astype(np.int64) - right[exits, certify]

    chosen = 0
    exits, drops = outcome(chosen)
    # Without early exits the drop against the own last exit is 0: there is nothing to test.
    if given.reference is not None and not certifies(drops, limit, confidence):
        raise _never_good_enough(program, drops, limit, confidence)
    for candidate in range(1, len(path)):
        next_exits, next_drops = outcome(candidate)
        if not certifies(next_drops, limit, confidence):
            break
        chosen, exits, drops = candidate, next_exits, next_drops

    enabled = tuple(bool(value) for value in path.enabled[chosen])
    threshold = float(path.thresholds[chosen])
    counts = np.bincount(exits, minlength=early + 1)
    exact = chosen == 0 and given.reference is None
    certificate = Certificate(
        kind="accuracy_drop",
        claim=_claim(program, limit, confidence, reference, any_early=any(enabled)),
        reference=reference,
        limit=limit,
        confidence=confidence,
        images_fit=fit.size,
        images_certified=certify.size,
        observed=float(drops.mean()),
        upper_bound=0.0 if exact else smallest_limit(drops, limit, confidence),
        method=_METHOD,
        seed=seed,
        data_sha256=_fingerprint(given),
    )
    return Policy(
        name=name,
        program=program,
        signal=signal,
        temperatures=(*temperatures, 1.0),
        thresholds=(*(threshold if on else 1.0 for on in enabled), 0.0),
        enabled=(*enabled, True),
        exit_shares=tuple(float(count) / certify.size for count in counts),
        exit_counts=tuple(int(count) for count in counts),
        accuracy=float(right[exits, certify].mean()),
        certificates=(certificate,),
    )


def _signals(
    logits: NDArray[np.float32], temperatures: tuple[float, ...], signal: str
) -> NDArray[np.float64]:
    result = np.empty(logits.shape[:2], dtype=np.float64)
    for exit, temperature in enumerate(temperatures):
        result[exit] = signal_values(probabilities(logits[exit], temperature), signal)
    return result


def _claim(
    program: str, limit: float, confidence: float, reference: str, *, any_early: bool
) -> str:
    against = "its own last exit" if reference == "self" else "the float network"
    if not any_early and reference == "self":
        return f"{program} has no early exit enabled, so nothing is lost against {against}."
    return (
        f"With {100 * confidence:.4g} % confidence, the accuracy of {program} under this policy is "
        f"at most {100 * limit:.4g} % (absolute) below that of {against}, on images drawn like the "
        "calibration images."
    )


def _never_good_enough(
    program: str, drops: NDArray[np.int64], limit: float, confidence: float
) -> CalibrationError:
    least = smallest_limit(drops, 1.0 - 1e-9, confidence)
    return CalibrationError(
        f"without any early exit {program} is {drops.mean():.2%} below the float network on these "
        f"images, and at {confidence:.1%} confidence only a limit of {least:.2%} can be certified; "
        f"got a limit of {limit:.2%}: raise it, or use another program"
    )


def _fingerprint(given: Inputs) -> str:
    """SHA-256 of shapes and values, the same on every machine."""
    digest = hashlib.sha256()
    arrays: list[NDArray[np.float32] | NDArray[np.int64]] = [given.logits, given.labels]
    if given.reference is not None:
        arrays.append(given.reference)
    for array in arrays:
        little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
        digest.update(f"{little.dtype.str}{little.shape}".encode())
        digest.update(little.tobytes())
    return digest.hexdigest()
