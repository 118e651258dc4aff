"""What calibration accepts, checked once at the door."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, final

import numpy as np

from offramp.errors import CalibrationError, DataError, ShapeError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["Inputs", "Signal", "check_fraction", "check_inputs"]

Signal = Literal["max_probability", "margin", "entropy"]
_SIGNALS = ("max_probability", "margin", "entropy")


@final
@dataclass(frozen=True, slots=True, eq=False)
class Inputs:
    """Arrays that fit together.

    Attributes:
        logits: ``(exits, images, classes)`` float32, finite.
        labels: ``(images,)`` int64, each a class; ``None`` if they are not known.
        reference: ``(images,)`` int64, the float network's answers, if it is the reference.
    """

    logits: NDArray[np.float32]
    labels: NDArray[np.int64] | None
    reference: NDArray[np.int64] | None

    def fingerprint(self) -> str:
        """SHA-256 of shapes and values, the same on every machine."""
        digest = hashlib.sha256()
        for array in (self.logits, self.labels, self.reference):
            if array is None:
                continue
            little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
            digest.update(f"{little.dtype.str}{little.shape}".encode())
            digest.update(little.tobytes())
        return digest.hexdigest()


def check_fraction(name: str, value: float) -> None:
    """Check an argument that must lie above 0 and below 1.

    Raises:
        CalibrationError: It does not; NaN does not either.
    """
    if not 0.0 < value < 1.0:
        raise CalibrationError(f"{name} must be above 0 and below 1, got {value}")


def check_inputs(
    logits: ArrayLike,
    labels: ArrayLike | None,
    *,
    signal: str,
    reference: str,
    reference_logits: ArrayLike | None,
) -> Inputs:
    """Check the arguments of ``calibrate``; see there.

    Raises:
        ShapeError: An array has the wrong shape or dtype.
        DataError: Logits are not finite, or a label names no class.
        CalibrationError: The signal is unknown, or reference logits are given or missing against
            the reference.
    """
    if signal not in _SIGNALS:
        raise CalibrationError(f"unknown signal {signal!r}; expected one of {', '.join(_SIGNALS)}")
    if (reference == "float") != (reference_logits is not None):
        given = "none were given" if reference_logits is None else "some were given"
        raise CalibrationError(
            f"reference_logits go with reference='float' and only with it; got {reference=} and "
            f"{given}"
        )

    values = _finite(logits, "logits")
    if values.ndim != 3 or values.shape[0] < 1 or values.shape[2] < 2:
        raise ShapeError(
            "logits must be (exits, images, classes) with at least one exit and two classes, "
            f"got {values.shape}"
        )
    _, images, classes = values.shape
    named = None if labels is None else _check_labels(labels, images, classes)
    floating = None
    if reference_logits is not None:
        floating = _finite(reference_logits, "reference_logits")
        if floating.shape != (images, classes):
            raise ShapeError(
                f"reference_logits must be ({images}, {classes}), one row per image of the "
                f"logits, got {floating.shape}"
            )
    return Inputs(
        logits=values,
        labels=named,
        reference=None if floating is None else floating.argmax(axis=-1),
    )


def _check_labels(labels: ArrayLike, images: int, classes: int) -> NDArray[np.int64]:
    named = np.asarray(labels)
    if named.shape != (images,) or not np.issubdtype(named.dtype, np.integer):
        raise ShapeError(
            f"labels must be ({images},) integers, one per image of the logits, got "
            f"{named.shape} {named.dtype}"
        )
    if images and (named.min() < 0 or named.max() >= classes):
        raise DataError(
            f"labels must lie between 0 and {classes - 1}, the classes of the logits, got "
            f"{named.min()} to {named.max()}"
        )
    return named.astype(np.int64)


def _finite(values: ArrayLike, name: str) -> NDArray[np.float32]:
    array = np.asarray(values)
    if array.dtype.kind not in "fiu":
        raise ShapeError(f"{name} must be numbers, got dtype {array.dtype}")
    array = array.astype(np.float32)
    if not np.isfinite(array).all():
        raise DataError(
            f"{name} must be finite, got {np.count_nonzero(~np.isfinite(array))} values that are "
            "not; the program that made them is broken or was fed something else"
        )
    return array
