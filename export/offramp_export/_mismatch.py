"""An error that says which layer is to blame."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from offramp.errors import ExportError, ExportMismatchError
from offramp_export.culprit import find_culprit

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from offramp_export.targets import Target

__all__ = ["name_layer"]

# Eight bits are off by some percent at each layer, and by more the deeper it is.
_TOLERANCE_OF_FEW_BITS = 0.25


def name_layer(
    error: ExportMismatchError,
    stages: Sequence[nn.Module],
    target: Target,
    images: NDArray[np.uint8],
    calibration_images: NDArray[np.uint8] | None,
) -> ExportMismatchError:
    """The same error with the first layer that departs, or with why none could be named."""
    tolerance = target.tolerance if math.isfinite(target.tolerance) else _TOLERANCE_OF_FEW_BITS
    stage = layer = None
    try:
        found = find_culprit(
            stages,
            target,
            images,
            exit=error.exit,
            tolerance=tolerance,
            calibration_images=calibration_images,
        )
    except ExportError as failure:
        said = f"the first layer that departs could not be found: {failure}"
    else:
        if found is None:
            said = (
                f"converted as one stage the network stays within {tolerance:.2g}, so what departs "
                "is no layer but what one stage hands to the next"
            )
        else:
            stage, layer = found.stage, found.layer
            where = f"layer {layer!r} of stage {stage}" if layer else f"stage {stage} itself"
            said = (
                f"the first to depart is {where}, {found.operator}: by {found.difference:.2g} of "
                f"its largest value, and what it reads by {found.before:.2g} at most"
            )
    return ExportMismatchError(
        f"{error}; {said}",
        program=error.program,
        exit=error.exit,
        difference=error.difference,
        tolerance=error.tolerance,
        stage=stage,
        layer=layer,
    )
