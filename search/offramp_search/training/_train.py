"""The training loop."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from offramp.errors import DataError, TrainingError
from offramp_search.training._augment import make_augmentation
from offramp_search.training._checkpoint import Checkpoint
from offramp_search.training._fabric import open_fabric
from offramp_search.training._history import EpochRecord, History, TrainingProgress
from offramp_search.training._loss import joint_loss
from offramp_search.training._optimizer import make_optimizer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor, nn

    from offramp_search.data import ImageSet
    from offramp_search.training._fabric import Precision
    from offramp_search.training._recipe import Recipe

__all__ = ["Task", "train"]


class Task(Protocol):
    """What a network is shown instead of images, and what it should answer."""

    @property
    def images(self) -> NDArray[np.float32]:
        """``(shown, height, width, 3)``, on the scale of 0 to 255."""

    @property
    def labels(self) -> NDArray[np.int64]:
        """``(answers,)``."""


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
    precision: Precision | None = None,
) -> History:
    """Train all exits of a network together, in place.

    Everything random is a function of the seed and the epoch, so that a training which is killed
    and run again with the same checkpoint ends in the same weights.

    Args:
        network: Maps ``(images, height, width, 3)`` float32, 0 to 255, to a tuple of logits, one
            for each exit; a static network gives a tuple of one. It is left in evaluation mode,
            on the processor.
        data: The images, kept as uint8 in memory.
        recipe: How to train.
        teacher: Gives ``(images, classes)`` logits to distil from; takes what the network takes.
        checkpoint: A file that is written after each epoch, and gone on from if it is there.
        seed: Seed of the order of the images, of the augmentation and of ``before_step``.
        progress: Called about twice a second and at the end of each epoch.
        before_step: Called with the step, counted over all epochs, and a generator of its own;
            a network that holds many architectures chooses one here.
        transform: Makes of a batch, ``(images, height, width, 3)`` float32, what the network is
            shown and what it should answer, with a generator of the step; the labels of the data
            are then not looked at.
        precision: The arithmetic; ``None`` takes ``fastest_precision()``.

    Raises:
        DataError: There are no images, or the checkpoint is damaged.
        ResumeError: The checkpoint belongs to another training.
        TrainingError: The loss is no longer a finite number.
    """
    if not len(data):
        raise DataError("there are no images to train on")
    if teacher is not None and transform is not None:
        raise ValueError("a teacher answers for images as they are; give it or a transform")
    fabric = open_fabric(precision)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = make_optimizer(network, recipe)
    wrapped, wrapped_optimizer = fabric.setup(network, optimizer)
    saved = None
    epochs: list[EpochRecord] = []
    if checkpoint is not None:
        saved = Checkpoint.of(checkpoint, network, data, recipe, seed)
        epochs = saved.load(network, optimizer)

    images, labels = torch.from_numpy(data.images), torch.from_numpy(data.labels)
    augment = make_augmentation(recipe, data.image_shape)
    answers = _Teacher(teacher, images, recipe) if teacher is not None else None
    steps_per_epoch = max(1, len(data) // recipe.batch_size)
    steps = recipe.epochs * steps_per_epoch
    clock = _Clock(steps - len(epochs) * steps_per_epoch, recipe.batch_size)

    for epoch in range(len(epochs), recipe.epochs):
        tally = _Tally()
        network.train()
        order = np.random.default_rng([seed, epoch]).permutation(len(data))
        # Dropout and augmentation draw from torch's global generator; fork it, so that the
        # caller's stream stays as it was.
        with torch.random.fork_rng():
            torch.manual_seed(_mix(seed, epoch))
            for index in range(steps_per_epoch):
                step = epoch * steps_per_epoch + index
                if before_step is not None:
                    before_step(step, np.random.default_rng([seed, epoch, index]))
                rows = torch.from_numpy(
                    order[index * recipe.batch_size : (index + 1) * recipe.batch_size]
                )
                batch = images[rows].float()
                batch = fabric.to_device(batch if augment is None else augment(batch))
                targets = fabric.to_device(labels[rows])
                if transform is not None:
                    drawn = np.random.default_rng([seed, epoch, index, 1])
                    task = transform(batch.cpu().numpy(), drawn)
                    batch = fabric.to_device(torch.from_numpy(task.images))
                    targets = fabric.to_device(torch.from_numpy(task.labels))
                for group in optimizer.param_groups:
                    group["lr"] = recipe.learning_rate_at(step, steps)
                logits = wrapped(batch)
                loss = joint_loss(
                    logits, targets, recipe, None if answers is None else answers(batch, rows)
                )
                tally.add(loss, logits, targets)
                if not math.isfinite(tally.last_loss):
                    raise TrainingError(
                        f"the loss became {tally.last_loss} in epoch {epoch + 1}, "
                        f"step {index + 1}; lower the learning rate "
                        f"(it was {recipe.learning_rate_at(step, steps):g})"
                    )
                wrapped_optimizer.zero_grad()
                fabric.backward(loss)
                if recipe.clip_norm is not None:
                    fabric.clip_gradients(wrapped, wrapped_optimizer, max_norm=recipe.clip_norm)
                wrapped_optimizer.step()
                clock.tick()
                if progress is not None and (clock.is_due() or index == steps_per_epoch - 1):
                    progress(
                        TrainingProgress(
                            epoch=epoch,
                            epochs=recipe.epochs,
                            step=step + 1,
                            steps=steps,
                            loss=tally.loss,
                            exit_accuracies=tally.exit_accuracies,
                            images_per_second=clock.images_per_second,
                            eta_s=clock.eta_s,
                        )
                    )
        epochs.append(EpochRecord(tally.loss, tally.exit_accuracies, clock.images_per_second))
        if saved is not None:
            saved.save(network, optimizer, epochs)
    # Back to torch's own layout: the LiteRT converter makes wrong programs of networks that mix
    # channels-last weights with slicing and padding (ResNets with option-A shortcuts).
    network.to(device="cpu", memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    network.eval()
    return History(tuple(epochs))


def _mix(seed: int, epoch: int) -> int:
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0] >> 1)


class _Teacher:
    """Answers once per image if images never change, once per batch otherwise."""

    def __init__(self, teacher: Callable[[Tensor], Tensor], images: Tensor, recipe: Recipe) -> None:
        self._teacher = teacher
        if isinstance(teacher, torch.nn.Module):
            teacher.eval()
        self._cache: Tensor | None = None
        if not recipe.augments and recipe.epochs > 1:
            with torch.no_grad():
                self._cache = torch.cat(
                    [teacher(part.float()).float() for part in torch.split(images, 256)]
                )

    def __call__(self, batch: Tensor, rows: Tensor) -> Tensor:
        if self._cache is not None:
            return self._cache[rows].to(batch.device)
        with torch.no_grad():
            return self._teacher(batch).float()


class _Tally:
    """Means over an epoch so far."""

    def __init__(self) -> None:
        self._batches = self._images = 0
        self._loss = 0.0
        self._right: list[int] = []
        self.last_loss = math.nan

    def add(self, loss: Tensor, logits: tuple[Tensor, ...], labels: Tensor) -> None:
        self.last_loss = float(loss.detach())
        self._loss += self.last_loss
        self._batches += 1
        self._images += len(labels)
        right = [int((exit_.detach().argmax(-1) == labels).sum()) for exit_ in logits]
        self._right = [a + b for a, b in zip(self._right or [0] * len(right), right, strict=True)]

    @property
    def loss(self) -> float:
        return self._loss / self._batches

    @property
    def exit_accuracies(self) -> tuple[float, ...]:
        return tuple(right / self._images for right in self._right)


class _Clock:
    """Speed, time to go, and when to report."""

    def __init__(self, steps: int, batch_size: int) -> None:
        self._steps, self._batch_size, self._done = steps, batch_size, 0
        self._started = self._reported = time.perf_counter()

    def tick(self) -> None:
        self._done += 1

    def is_due(self) -> bool:
        now = time.perf_counter()
        if now - self._reported < 0.5:
            return False
        self._reported = now
        return True

    @property
    def images_per_second(self) -> float:
        return self._done * self._batch_size / (time.perf_counter() - self._started)

    @property
    def eta_s(self) -> float:
        return (self._steps - self._done) * self._batch_size / self.images_per_second
