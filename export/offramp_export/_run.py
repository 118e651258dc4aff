"""Running a program that was just made, whatever its runtime raises."""

from __future__ import annotations

from typing import TYPE_CHECKING

from offramp.errors import ExportError, OfframpError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from offramp_export.targets import ConvertedProgram, Target

__all__ = ["run_program"]


def run_program(
    target: Target, program: ConvertedProgram, images: NDArray[np.uint8]
) -> NDArray[np.float32]:
    """``target.run``, whose failure is the program's.

    Raises:
        ExportError: The runtime could not load or run the program.
    """
    try:
        return target.run(program, images)
    except OfframpError:
        raise
    except Exception as error:
        raise ExportError(
            f"{target.name} was converted, but its runtime cannot run it: {error}; replace the "
            "operator it names, or leave this target out"
        ) from error
