"""Whether a program answers as the torch network does."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np

from offramp.bundle import Policy
from offramp.errors import DataError, ExportMismatchError
from offramp.policy import choose_exits

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "LABEL_AGREEMENT",
    "THRESHOLDS",
    "ExitParity",
    "Parity",
    "check_given",
    "compare",
    "require_agreement",
]

THRESHOLDS = (0.5, 0.7, 0.9)
"""Where exit agreement is judged: an image leaves at the first exit this sure of its answer."""

LABEL_AGREEMENT = 0.8
"""The share of images on which a program without a logit tolerance must give torch's label.

It is a guard against a broken program, not a promise of accuracy: trained networks keep above 0.95
in static int8, while scales that do not fit together drop to chance. What int8 costs is measured
and certified on held-out images by calibration.
"""

_Z = 2.0


@final
@dataclass(frozen=True, slots=True)
class ExitParity:
    """How one exit of a program compares with torch.

    Attributes:
        difference: The largest absolute difference between logits, as a fraction of the largest
            absolute logit of that exit in torch.
        mean_difference: The mean absolute difference, as a fraction of the same logit.
        label_agreement: The share of images that get the same label.
        accuracy: Of the program, if the true labels were given.
        torch_accuracy: Of torch, on the same images.
    """

    difference: float
    mean_difference: float
    label_agreement: float
    accuracy: float | None = None
    torch_accuracy: float | None = None


@final
@dataclass(frozen=True, slots=True)
class Parity:
    """How one program compares with torch.

    Attributes:
        program: ``runtime/precision``.
        images: How many images were compared.
        tolerance: What ``difference`` may be; ``inf`` if only labels are judged.
        exits: One entry per exit.
        exit_agreement: The share of images that leave at the same exit, at the worst of
            ``THRESHOLDS``.
        policy: The name of the policy that was given.
        policy_agreement: The share of images that leave at the same exit under it.
    """

    program: str
    images: int
    tolerance: float
    exits: tuple[ExitParity, ...]
    exit_agreement: float
    policy: str | None = None
    policy_agreement: float | None = None


def compare(
    program: str,
    logits: NDArray[np.float32],
    reference: NDArray[np.float32],
    *,
    tolerance: float,
    labels: NDArray[np.int64] | None = None,
    policy: Policy | None = None,
) -> Parity:
    """Compare a program's logits with those of torch; judges nothing.

    Args:
        program: ``runtime/precision``.
        logits: ``(exits, images, classes)``, from the program.
        reference: The same, from torch.
        tolerance: The largest ``difference`` that is still agreement.
        labels: ``(images,)``, the true class of each, for accuracies.
        policy: With as many exits as there are here; where images leave is judged by it, too.

    Raises:
        DataError: The labels or the policy do not fit the logits.
    """
    exits, images, _ = reference.shape
    check_given(labels, policy, reference.shape)
    return Parity(
        program=program,
        images=images,
        tolerance=tolerance,
        exits=tuple(
            _compare_exit(got, expected, labels)
            for got, expected in zip(logits, reference, strict=True)
        ),
        exit_agreement=min(
            _exit_agreement(_sure_of(threshold, exits), logits, reference)
            for threshold in THRESHOLDS
        ),
        policy=None if policy is None else policy.name,
        policy_agreement=None if policy is None else _exit_agreement(policy, logits, reference),
    )


def check_given(
    labels: NDArray[np.int64] | None, policy: Policy | None, shape: tuple[int, ...]
) -> None:
    """Refuse labels or a policy that belong to other images or another network.

    Args:
        labels: ``(images,)``, or none.
        policy: Or none.
        shape: ``(exits, images, classes)`` of the logits they shall go with.

    Raises:
        DataError: They do not fit.
    """
    exits, images, classes = shape
    if labels is not None and labels.shape != (images,):
        raise DataError(f"got labels of shape {labels.shape} for {images} images; give one each")
    if labels is not None and (labels.min() < 0 or labels.max() >= classes):
        raise DataError(
            f"got labels from {labels.min()} to {labels.max()} for {classes} classes; number them "
            f"from 0 to {classes - 1}"
        )
    if policy is not None and len(policy.thresholds) != exits:
        raise DataError(
            f"policy {policy.name!r} is for {len(policy.thresholds)} exits, the network has "
            f"{exits}; give a policy of this network"
        )


def require_agreement(parity: Parity) -> None:
    """Refuse a program that does not answer as torch does.

    With a tolerance every exit's difference must stay within it. Without one, the labels are
    judged: the agreement, and what chance could add to it at this number of images, must reach
    ``LABEL_AGREEMENT``.

    Raises:
        ExportMismatchError: The first exit that breaks its bound.
    """
    for exit, found in enumerate(parity.exits):
        if math.isfinite(parity.tolerance):
            # Not a number must not pass either.
            if not found.difference <= parity.tolerance:
                raise ExportMismatchError(
                    f"{parity.program}: the logits of exit {exit} differ from torch's by "
                    f"{found.difference:.2g} of the largest logit, at most "
                    f"{parity.tolerance:.2g} is allowed; replace the layer that departs, or leave "
                    "this target out",
                    program=parity.program,
                    exit=exit,
                    difference=found.difference,
                    tolerance=parity.tolerance,
                )
            continue
        share = LABEL_AGREEMENT
        slack = _Z * math.sqrt(share * (1 - share) / parity.images)
        if not math.isfinite(found.difference) or found.label_agreement < share - slack:
            raise ExportMismatchError(
                f"{parity.program}: exit {exit} gives torch's label to "
                f"{found.label_agreement:.0%} of {parity.images} images, expected at least "
                f"{share - slack:.0%}; calibrate with images like those the network was trained "
                "on, or leave this target out",
                program=parity.program,
                exit=exit,
                difference=found.difference,
                tolerance=parity.tolerance,
            )


def _compare_exit(
    logits: NDArray[np.float32], reference: NDArray[np.float32], labels: NDArray[np.int64] | None
) -> ExitParity:
    largest = float(np.abs(reference).max()) or 1.0
    difference = np.abs(logits.astype(np.float64) - reference)
    ours, theirs = logits.argmax(axis=-1), reference.argmax(axis=-1)
    return ExitParity(
        difference=float(difference.max()) / largest,
        mean_difference=float(difference.mean()) / largest,
        label_agreement=float((ours == theirs).mean()),
        accuracy=None if labels is None else float((ours == labels).mean()),
        torch_accuracy=None if labels is None else float((theirs == labels).mean()),
    )


def _exit_agreement(
    policy: Policy, logits: NDArray[np.float32], reference: NDArray[np.float32]
) -> float:
    same = choose_exits(policy, logits) == choose_exits(policy, reference)
    return float(same.mean())


def _sure_of(threshold: float, exits: int) -> Policy:
    return Policy(
        name="parity",
        program="parity",
        signal="max_probability",
        temperatures=(1.0,) * exits,
        thresholds=(threshold,) * exits,
        enabled=(True,) * exits,
    )
