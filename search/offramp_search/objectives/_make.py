"""From the word a user gives to an objective."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

from offramp_search.objectives._colorization import Colorization
from offramp_search.objectives._jigsaw import Jigsaw
from offramp_search.objectives._rotation import Rotation

if TYPE_CHECKING:
    from offramp_search.objectives._base import Objective

__all__ = ["OBJECTIVES", "ObjectiveName", "make_objective"]

ObjectiveName = Literal["rotation", "colorization", "jigsaw"]

OBJECTIVES: tuple[ObjectiveName, ...] = get_args(ObjectiveName)
"""The words there are."""


def make_objective(name: ObjectiveName, image_shape: tuple[int, int]) -> Objective:
    """An objective with the options that suit images of a size.

    Args:
        name: One of :data:`OBJECTIVES`.
        image_shape: Height and width.

    Raises:
        DataError: The objective cannot be had with such images.
    """
    if name == "rotation":
        return Rotation(image_shape)
    if name == "jigsaw":
        return Jigsaw(image_shape)
    # Cells of four pixels where they fit, so that small and large images have many.
    fitting = [cell for cell in (4, 3, 2, 1) if not any(side % cell for side in image_shape)]
    return Colorization(image_shape, cell=fitting[0])
