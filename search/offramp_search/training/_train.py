"""Training on one device or several."""

from __future__ import annotations

from typing import TYPE_CHECKING

from offramp.errors import DataError
from offramp_search.training._fabric import Hardware, open_fabric
from offramp_search.training._loop import Training
from offramp_search.training._parallel import run_in_processes
from offramp_search.training._task import Task

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from offramp_search.data import ImageSet
    from offramp_search.training._history import History, TrainingProgress
    from offramp_search.training._recipe import Recipe

__all__ = ["Task", "train"]

_ANYWHERE = Hardware()


def train(
    network: nn.Module,
    data: ImageSet,
    *,
    recipe: Recipe,
    teacher: Callable[[Tensor], Tensor] | None = None,
    checkpoint: Path | None = None,
    seed: int = 0,
    progress: Callable[[TrainingProgress], None] | None = None,
    before_step: Callable[[int, np.random.Generator], None] | None = None,
    transform: Callable[[NDArray[np.float32], np.random.Generator], Task] | None = None,
    hardware: Hardware = _ANYWHERE,
) -> History:
    """Train all exits of a network together, in place.

    Everything random is a function of the seed and the epoch, so that a training which is killed
    and run again with the same checkpoint ends in the same weights.

    On several devices each has a process of its own, which holds the images and computes its share
    of every batch; gradients are averaged, so that the step is the one of the whole batch. Two
    things differ from one device. Batch normalisation normalises by the statistics of a share, and
    keeps the average of the shares' running statistics, made after every epoch. And what dropout
    and ``transform`` draw is drawn by each process for its share. Processes are started afresh
    (``spawn``), so a script that trains on more than one keeps its calls under ``if __name__ ==
    "__main__"``.

    Args:
        network: Maps ``(images, height, width, 3)`` float32, 0 to 255, to a tuple of logits, one
            for each exit; a static network gives a tuple of one. It is left in evaluation mode,
            on the processor.
        data: The images, kept as uint8 in memory.
        recipe: How to train.
        teacher: Gives ``(images, classes)`` logits to distil from; takes what the network takes.
        checkpoint: A file that is written after each epoch, and gone on from if it is there.
        seed: Seed of the order of the images, of the augmentation and of ``before_step``.
        progress: Called about twice a second and at the end of each epoch; with the first
            process's share where there are several.
        before_step: Called with the step, counted over all epochs, and a generator of its own;
            a network that holds many architectures chooses one here.
        transform: Makes of a batch, ``(images, height, width, 3)`` float32, what the network is
            shown and what it should answer, with a generator of the step; the labels of the data
            are then not looked at.
        hardware: What to train on.

    Raises:
        DataError: There are no images, or the checkpoint is damaged, or something cannot be handed
            to other processes.
        DeviceError: This machine has no such hardware, or not so much.
        ResumeError: The checkpoint belongs to another training, or to another number of devices.
        TrainingError: The loss is no longer a finite number, or a process died.
    """
    if not len(data):
        raise DataError("there are no images to train on")
    if teacher is not None and transform is not None:
        raise ValueError("a teacher answers for images as they are; give it or a transform")
    if min(recipe.batch_size, len(data)) < hardware.devices:
        raise DataError(
            f"batches of {min(recipe.batch_size, len(data))} images do not go round "
            f"{hardware.devices} devices; use fewer devices"
        )
    training = Training(
        network=network,
        data=data,
        recipe=recipe,
        teacher=teacher,
        checkpoint=checkpoint,
        seed=seed,
        before_step=before_step,
        transform=transform,
    )
    if hardware.devices > 1:
        return run_in_processes(training, hardware, progress)
    return training.run(open_fabric(hardware), progress)
