"""Every exit's answer to every image."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from offramp.errors import ShapeError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from offramp.runtimes import Runtime

__all__ = ["collect_logits"]


def collect_logits(
    runtime: Runtime,
    images: NDArray[np.uint8],
    progress: Callable[[int, int], None] | None = None,
) -> NDArray[np.float32]:
    """Run every image through every stage.

    Args:
        runtime: A loaded program.
        images: ``(images, height, width, 3)`` uint8, at least one.
        progress: Called with the number of images done and the number in all.

    Returns:
        ``(exits, images, classes)`` float32.

    Raises:
        ShapeError: There is no image, or one the program does not take.
    """
    if len(images) == 0:
        raise ShapeError("there is no image to run; expected at least one")
    logits: list[list[NDArray[np.float32]]] = [[] for _ in range(runtime.num_stages)]
    for number, image in enumerate(images):
        runtime.start(image)
        for stage, answers in enumerate(logits):
            answers.append(runtime.run(stage))
        if progress is not None:
            progress(number + 1, len(images))
    return np.stack([np.stack(answers) for answers in logits])
