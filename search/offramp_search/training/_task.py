"""What a network is shown instead of images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Task"]


class Task(Protocol):
    """What a network is shown instead of images, and what it should answer."""

    @property
    def images(self) -> NDArray[np.float32]:
        """``(shown, height, width, 3)``, on the scale of 0 to 255."""

    @property
    def labels(self) -> NDArray[np.int64]:
        """``(answers,)``."""
