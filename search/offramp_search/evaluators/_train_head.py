"""The head of a map, trained on maps that do not change."""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from offramp.errors import TrainingError
from offramp_search.evaluators._recalibrate import recalibrate
from offramp_search.training import Recipe, joint_loss, make_optimizer

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from offramp_search.spaces.static_transform import ExitHead

__all__ = ["HEAD_RECIPE", "Maps", "train_head"]

HEAD_RECIPE = Recipe(
    epochs=8,
    batch_size=64,
    learning_rate=3e-3,
    optimizer="adamw",
    weight_decay=0.05,
    schedule="one_cycle",
    distill_alpha=0.5,
)
"""For some thousand maps: a few seconds on one processor."""

_RECALIBRATION_MAPS = 1_024


class Maps(Protocol):
    """What heads are trained on, an array or whatever gives its rows."""

    def __len__(self) -> int:
        """How many images."""

    def __getitem__(self, rows: NDArray[np.intp], /) -> NDArray[np.float16] | NDArray[np.float32]:
        """``(rows, channels, height, width)``."""


def train_head(
    head: ExitHead,
    maps: Maps,
    labels: NDArray[np.int64],
    *,
    recipe: Recipe = HEAD_RECIPE,
    teacher: NDArray[np.float32] | None = None,
    generator: np.random.Generator,
) -> ExitHead:
    """Train a head and its classifiers together, on what the layers before it computed once.

    At the end batch normalisation is given the statistics of up to 1,024 of the maps.

    Args:
        head: Where to start from; it stays as it is.
        maps: ``(images, *head.map_shape)``.
        labels: ``(images,)``.
        recipe: How to train; what is said in it of images is left out.
        teacher: ``(images, classes)`` logits to distil from as well, by the recipe's weight.
        generator: Draws the order of the images.

    Returns:
        A trained copy, in evaluation mode.

    Raises:
        ValueError: The arrays do not fit together.
        TrainingError: The loss is no longer a finite number.
    """
    images = len(maps)
    if not images or labels.shape != (images,) or (teacher is not None and len(teacher) != images):
        raise ValueError(
            f"expected as many labels and answers of the teacher as maps, got {images} maps, "
            f"{labels.shape} labels" + ("" if teacher is None else f" and {teacher.shape} answers")
        )
    trained = copy.deepcopy(head).train()
    device = next(trained.parameters()).device
    optimizer = make_optimizer(trained, recipe)
    # A last batch of a few images would give batch normalisation nothing to go by.
    batches = max(1, images // recipe.batch_size)
    steps, step = recipe.epochs * batches, 0
    for _ in range(recipe.epochs):
        order = generator.permutation(images)
        for rows in np.array_split(order, batches):
            for group in optimizer.param_groups:
                group["lr"] = recipe.learning_rate_at(step, steps)
            logits = trained(torch.from_numpy(maps[rows]).to(device).float())
            loss = joint_loss(
                logits,
                torch.from_numpy(labels[rows]).to(device),
                recipe,
                None if teacher is None else torch.from_numpy(teacher[rows]).to(device),
            )
            if not math.isfinite(float(loss.detach())):
                raise TrainingError(
                    f"the loss of an exit's head became {float(loss.detach())} in step {step + 1} "
                    f"of {steps}; train the network before it longer or more gently"
                )
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            if recipe.clip_norm is not None:
                torch.nn.utils.clip_grad_norm_(trained.parameters(), recipe.clip_norm)
            optimizer.step()
            step += 1
    chosen = np.sort(generator.permutation(images)[:_RECALIBRATION_MAPS])
    recalibrate(trained, maps[chosen])
    return trained.eval()
