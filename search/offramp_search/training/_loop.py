"""The training loop, as each process runs it."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch
from torch import nn

from offramp.errors import TrainingError
from offramp_search.training._augment import make_augmentation
from offramp_search.training._checkpoint import Checkpoint
from offramp_search.training._history import EpochRecord, History, TrainingProgress
from offramp_search.training._loss import joint_loss
from offramp_search.training._optimizer import make_optimizer
from offramp_search.training._strided import depthwise_without_strides
from offramp_search.training._tally import Tally
from offramp_search.training._teacher import Teacher

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from lightning_fabric import Fabric
    from torch import Tensor

    from offramp_search.data import ImageSet
    from offramp_search.training._recipe import Recipe
    from offramp_search.training._task import Task

__all__ = ["Training"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """All that ``train`` was given, in one piece that can be handed to other processes."""

    network: nn.Module
    data: ImageSet
    recipe: Recipe
    teacher: Callable[[Tensor], Tensor] | None
    checkpoint: Path | None
    seed: int
    before_step: Callable[[int, np.random.Generator], None] | None
    transform: Callable[[np.ndarray[Any, np.dtype[np.float32]], np.random.Generator], Task] | None

    def run(self, fabric: Fabric, progress: Callable[[TrainingProgress], None] | None) -> History:
        """Train this process's copy of the network; all copies end alike.

        Args:
            fabric: This process's device. Every process takes its share of each batch; the
                gradients are averaged as those of the whole batch.
            progress: Called as in ``train``.
        """
        with depthwise_without_strides(self.network):
            return self._run(fabric, progress)

    def _run(self, fabric: Fabric, progress: Callable[[TrainingProgress], None] | None) -> History:
        network, data, recipe, seed = self.network, self.data, self.recipe, self.seed
        shares = fabric.world_size
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimizer = make_optimizer(network, recipe)
        wrapped, wrapped_optimizer = fabric.setup(network, optimizer)
        saved = None
        epochs: list[EpochRecord] = []
        if self.checkpoint is not None:
            saved = Checkpoint.of(self.checkpoint, network, data, recipe, seed, shares)
            epochs = saved.load(network, optimizer)

        images, labels = torch.from_numpy(data.images), torch.from_numpy(data.labels)
        augment = make_augmentation(recipe, data.image_shape)
        answers = None if self.teacher is None else Teacher(self.teacher, images, recipe, fabric)
        steps_per_epoch = max(1, len(data) // recipe.batch_size)
        steps = recipe.epochs * steps_per_epoch
        clock = _Clock(steps - len(epochs) * steps_per_epoch, recipe.batch_size)
        forked = [] if fabric.device.type == "cpu" else [fabric.device]

        for epoch in range(len(epochs), recipe.epochs):
            tally = Tally()
            network.train()
            order = np.random.default_rng([seed, epoch]).permutation(len(data))
            # Dropout and augmentation draw from torch's global generator; fork it, so that the
            # caller's stream stays as it was.
            with torch.random.fork_rng(devices=forked):
                torch.manual_seed(_mix(seed, epoch))
                for index in range(steps_per_epoch):
                    step = epoch * steps_per_epoch + index
                    if self.before_step is not None:
                        self.before_step(step, np.random.default_rng([seed, epoch, index]))
                    rows = torch.from_numpy(
                        order[index * recipe.batch_size : (index + 1) * recipe.batch_size]
                    )
                    # Every process augments the whole batch, which draws the same for all of them
                    # and for one alone, and keeps its share.
                    batch = images[rows].float()
                    batch = batch if augment is None else augment(batch)
                    own = torch.tensor_split(torch.arange(len(rows)), shares)[fabric.global_rank]
                    part = len(own) * shares / len(rows)
                    batch, rows = batch[own], rows[own]
                    targets = fabric.to_device(labels[rows])
                    if self.transform is not None:
                        number = fabric.global_rank + 1
                        drawn = np.random.default_rng([seed, epoch, index, number])
                        task = self.transform(batch.numpy(), drawn)
                        batch = torch.from_numpy(task.images)
                        targets = fabric.to_device(torch.from_numpy(task.labels))
                    batch = fabric.to_device(batch)
                    rate = recipe.learning_rate_at(step, steps)
                    for group in optimizer.param_groups:
                        group["lr"] = rate
                    stream = torch.get_rng_state()
                    if shares > 1:  # each drops out by itself
                        torch.manual_seed(_mix(seed, epoch, index, fabric.global_rank))
                    logits = wrapped(batch)
                    loss = joint_loss(
                        logits, targets, recipe, None if answers is None else answers(batch, rows)
                    )
                    tally.add(loss, logits, targets)
                    if not math.isfinite(tally.last_loss):
                        raise TrainingError(
                            f"the loss became {tally.last_loss} in epoch {epoch + 1}, "
                            f"step {index + 1}; lower the learning rate (it was {rate:g})"
                        )
                    wrapped_optimizer.zero_grad()
                    # The mean over processes is then that over images, equal shares or not.
                    fabric.backward(loss * part if shares > 1 else loss)
                    if shares > 1:
                        torch.set_rng_state(stream)
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
            if shares > 1:
                _average_statistics(network, fabric)
                tally = tally.over_all(fabric)
            epochs.append(EpochRecord(tally.loss, tally.exit_accuracies, clock.images_per_second))
            if saved is not None and fabric.is_global_zero:
                saved.save(network, optimizer, epochs)
        if answers is not None:
            answers.close()
        # Back to torch's own layout: the LiteRT converter makes wrong programs of networks that mix
        # channels-last weights with slicing and padding (ResNets with option-A shortcuts).
        network.to(  # type: ignore[call-overload]
            device="cpu", memory_format=torch.contiguous_format
        )
        network.eval()
        return History(tuple(epochs))


def _average_statistics(network: nn.Module, fabric: Fabric) -> None:
    """Running means and variances of batch normalisation; each process saw its shares' alone."""
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            for statistics in (module.running_mean, module.running_var):
                if statistics is not None:
                    mean = fabric.all_reduce(statistics.clone(), reduce_op="mean")
                    assert isinstance(mean, torch.Tensor)
                    statistics.copy_(mean)


def _mix(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


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
