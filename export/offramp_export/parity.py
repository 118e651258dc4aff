"""Whether a program answers as the torch network does."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np

from offramp.bundle import Policy
from offramp.errors import ExportMismatchError
from offramp.policy import choose_exits

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["LABEL_AGREEMENT", "THRESHOLDS", "ExitParity", "Parity", "compare", "require_agreement"]

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
        label_agreement: The share of images that get the same label.
    """

    difference: float
    label_agreement: float


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
    """

    program: str
    images: int
    tolerance: float
    exits: tuple[ExitParity, ...]
    exit_agreement: float


def compare(
    program: str,
    logits: NDArray[np.float32],
    reference: NDArray[np.float32],
    *,
    tolerance: float,
) -> Parity:
    """Compare a program's logits with those of torch; judges nothing.

    Args:
        program: ``runtime/precision``.
        logits: ``(exits, images, classes)``, from the program.
        reference: The same, from torch.
        tolerance: The largest ``difference`` that is still agreement.
    """
    exits = []
    for got, expected in zip(logits, reference, strict=True):
        largest = float(np.abs(expected).max()) or 1.0
        difference = float(np.abs(got.astype(np.float64) - expected).max()) / largest
        agreement = float((got.argmax(axis=-1) == expected.argmax(axis=-1)).mean())
        exits.append(ExitParity(difference, agreement))
    return Parity(
        program=program,
        images=reference.shape[1],
        tolerance=tolerance,
        exits=tuple(exits),
        exit_agreement=min(
            float((_leave(logits, threshold) == _leave(reference, threshold)).mean())
            for threshold in THRESHOLDS
        ),
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


def _leave(logits: NDArray[np.float32], threshold: float) -> NDArray[np.int64]:
    exits = logits.shape[0]
    rule = Policy(
        name="parity",
        program="parity",
        signal="max_probability",
        temperatures=(1.0,) * exits,
        thresholds=(threshold,) * exits,
        enabled=(True,) * exits,
    )
    return choose_exits(rule, logits)
