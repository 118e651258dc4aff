"""What is searched, as the settings ask for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from offramp.errors import DataError
from offramp_search.spaces import Cell, StaticTransform

if TYPE_CHECKING:
    from offramp_search.bases import Base
    from offramp_search.pipeline._context import Context

__all__ = ["ASSUMED_CLASSES", "make_space", "make_static_transform"]

ASSUMED_CLASSES = 10
"""Of images without labels: what an exit answers then says only how much it computes."""


def make_space(
    context: Context, base: Base, carry: Literal["concatenate", "sum"]
) -> StaticTransform | Cell:
    """The space of the settings, with the carry that was chosen for it.

    Raises:
        DataError: There are no cells of such a shape.
    """
    settings = context.settings
    if settings.space != "cell":
        return make_static_transform(context, base, carry)
    try:
        return Cell(
            image_shape=context.image_shape,
            num_classes=len(context.splits.labels) or ASSUMED_CLASSES,
            preprocess=base.preprocess,
            num_stages=settings.num_stages,
            blocks=settings.cell_blocks,
            filters=settings.cell_filters,
            cells_per_level=settings.cells_per_level,
        )
    except ValueError as error:
        raise DataError(str(error)) from error


def make_static_transform(
    context: Context, base: Base, carry: Literal["concatenate", "sum"]
) -> StaticTransform:
    """The static transform of the base as it is now."""
    settings = context.settings
    return StaticTransform(
        base.module,
        image_shape=context.image_shape,
        preprocess=base.preprocess,
        num_stages=settings.num_stages,
        groups=settings.groups,
        vector_width=settings.vector_width,
        tie=settings.tie,
        exit_grid=settings.exit_grid,
        exit_head_channels=settings.exit_head_channels,
        exit_places=settings.exit_places,
        carry=carry,
    )
