"""Every error that Offramp raises on purpose.

    OfframpError
    ├── BundleError (ValueError)          the bundle cannot be used
    │   ├── ManifestError                 a key, its value, and what was expected
    │   ├── IntegrityError                a file is missing, extra, changed, or outside the folder
    │   └── SignatureError                not signed, not by whom it should be, or changed since
    ├── ImageError (ValueError)           the image cannot be used
    ├── DataError (ValueError)            a data set, or a file of arrays, cannot be used
    ├── ShapeError (ValueError)           an array or tensor of the wrong shape or dtype
    ├── ProgramError (RuntimeError)       a runtime refused to load or run a program
    │   └── SelfTestError                 ... or it does not answer as recorded in its bundle
    ├── ClosedError (RuntimeError)        used after close(), or after a fork
    ├── DeadlineError (ValueError)        no answer can be had so soon; says the soonest
    ├── ImageFailedError (RuntimeError)   one of many images failed; says which
    ├── CalibrationError (ValueError)     thresholds cannot be certified as asked
    │   └── TooFewImagesError             ... for want of images; says how many it takes
    ├── MissingExtraError (ImportError)   an optional package is not installed; says the pip line
    ├── DeviceError (RuntimeError)        a device cannot be reached or measured
    ├── ResumeError (ValueError)           the folder of an earlier run cannot be continued
    ├── InfeasibleBudgetError (ValueError)   nobody can meet the budget; says the smallest reachable
    ├── TrainingError (RuntimeError)      a network could not be trained
    ├── UnsupportedOperatorError (ValueError)  an operator the static transform has no rule for
    └── ExportError (RuntimeError)        a program could not be made
        ├── ConversionError               a converter refused an operator; says which, and its layer
        └── ExportMismatchError           a program does not answer as the torch network does

Each message says what was got, what was expected, and what to do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "BundleError",
    "CalibrationError",
    "ClosedError",
    "ConversionError",
    "DataError",
    "DeadlineError",
    "DeviceError",
    "ExportError",
    "ExportMismatchError",
    "ImageError",
    "ImageFailedError",
    "InfeasibleBudgetError",
    "IntegrityError",
    "ManifestError",
    "MissingExtraError",
    "OfframpError",
    "ProgramError",
    "ResumeError",
    "SelfTestError",
    "ShapeError",
    "SignatureError",
    "TooFewImagesError",
    "TrainingError",
    "UnsupportedOperatorError",
]


class OfframpError(Exception):
    """The root of all errors that Offramp raises on purpose."""


class BundleError(OfframpError, ValueError):
    """The bundle cannot be used."""


class ManifestError(BundleError):
    """The manifest breaks its schema or contradicts itself."""


class IntegrityError(BundleError):
    """A file of the bundle is missing, unlisted, changed, or outside its folder."""


class SignatureError(BundleError):
    """The bundle is not signed, not by whom it should be, or was changed since."""


class ImageError(OfframpError, ValueError):
    """The image cannot be used."""


class DataError(OfframpError, ValueError):
    """A data set, or a file of arrays, cannot be used."""


class ShapeError(OfframpError, ValueError):
    """An array or tensor has the wrong shape or dtype."""


class ProgramError(OfframpError, RuntimeError):
    """A runtime refused to load or to run a program."""


class SelfTestError(ProgramError):
    """A program does not answer here as it did where its bundle was made.

    Attributes:
        program: The program's name, such as ``litert/int8``.
        exit: The first exit that is wrong.
        difference: The largest difference from the recorded logits seen there.
        tolerance: What was allowed.
    """

    def __init__(
        self, message: str, *, program: str, exit: int, difference: float, tolerance: float
    ) -> None:
        super().__init__(message)
        self.program = program
        self.exit = exit
        self.difference = difference
        self.tolerance = tolerance


class ClosedError(OfframpError, RuntimeError):
    """An object was used after it was closed, or in a process forked after it was made."""


class DeadlineError(OfframpError, ValueError):
    """No answer can be had so soon on this device.

    Attributes:
        smallest_ms: The smallest deadline that can be kept, in milliseconds.
    """

    def __init__(self, message: str, *, smallest_ms: float) -> None:
        super().__init__(message)
        self.smallest_ms = smallest_ms


class ImageFailedError(OfframpError, RuntimeError):
    """One of many images failed; ``__cause__`` is what went wrong.

    Attributes:
        index: Which image, counted from 0.
    """

    def __init__(self, message: str, *, index: int) -> None:
        super().__init__(message)
        self.index = index


class CalibrationError(OfframpError, ValueError):
    """Thresholds cannot be certified as asked."""


class TooFewImagesError(CalibrationError):
    """There are too few calibration images for the promise asked for.

    Attributes:
        got: Images available for the certificate.
        needed: The smallest number with which the promise is possible at all.
    """

    def __init__(self, message: str, *, got: int, needed: int) -> None:
        super().__init__(message)
        self.got = got
        self.needed = needed


class MissingExtraError(OfframpError, ImportError):
    """An optional package is not installed."""


class DeviceError(OfframpError, RuntimeError):
    """A device cannot be reached or measured."""


class ResumeError(OfframpError, ValueError):
    """The folder of an earlier run cannot be continued as asked."""


class InfeasibleBudgetError(OfframpError, ValueError):
    """No architecture of the search space can meet the budget.

    Attributes:
        smallest: The smallest reachable value of the limit that is out of reach, in its own unit.
        architecture: What reaches it, where it was searched for.
        proven: Whether nothing smaller can be reached; otherwise it is the smallest that was found.
    """

    def __init__(
        self,
        message: str,
        *,
        smallest: float,
        architecture: Mapping[str, str | int] | None = None,
        proven: bool = False,
    ) -> None:
        super().__init__(message)
        self.smallest = smallest
        self.architecture = architecture
        self.proven = proven


class TrainingError(OfframpError, RuntimeError):
    """A network could not be trained."""


class UnsupportedOperatorError(OfframpError, ValueError):
    """The static transform has no rule for an operator of the base network.

    Attributes:
        operator: The ATen operator, such as ``aten.roll.default``.
        module_path: Where in the user's module it is called.
    """

    def __init__(self, message: str, *, operator: str, module_path: str) -> None:
        super().__init__(message)
        self.operator = operator
        self.module_path = module_path


class ExportError(OfframpError, RuntimeError):
    """A program could not be made from the stages."""


class ConversionError(ExportError):
    """A converter refused the stages.

    Attributes:
        stage: The stage with the operator that is refused; ``None`` if it was not found.
        layer: The layer that calls it, by its name in the stage; empty for the stage itself.
        operator: What torch calls it, such as ``aten.topk.default``.
    """

    def __init__(
        self,
        message: str,
        *,
        stage: int | None = None,
        layer: str | None = None,
        operator: str | None = None,
    ) -> None:
        super().__init__(message)
        self.stage = stage
        self.layer = layer
        self.operator = operator


class ExportMismatchError(ExportError):
    """A program does not answer as the torch network does.

    Attributes:
        program: The program's name, such as ``litert/float32``.
        exit: The first exit whose logits differ by more than the tolerance.
        difference: The largest logit difference seen there.
        tolerance: What was allowed.
        stage: The first stage with a layer whose result departs; ``None`` if it was not found.
        layer: That layer's name in the stage.
    """

    def __init__(
        self,
        message: str,
        *,
        program: str,
        exit: int,
        difference: float,
        tolerance: float,
        stage: int | None = None,
        layer: str | None = None,
    ) -> None:
        super().__init__(message)
        self.program = program
        self.exit = exit
        self.difference = difference
        self.tolerance = tolerance
        self.stage = stage
        self.layer = layer
