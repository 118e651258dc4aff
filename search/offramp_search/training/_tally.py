"""Means over an epoch."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from torch import Tensor

__all__ = ["Tally"]


class Tally:
    """Means over an epoch so far, of the images of this process."""

    def __init__(self) -> None:
        self._images = 0
        self._batches = 0.0
        self._loss = 0.0
        self._right: list[int] = []
        self.last_loss = math.nan

    def add(self, loss: Tensor, logits: tuple[Tensor, ...], labels: Tensor) -> None:
        """Count one batch."""
        self.last_loss = float(loss.detach())
        self._loss += self.last_loss
        self._batches += 1
        self._images += len(labels)
        right = [int((exit_.detach().argmax(-1) == labels).sum()) for exit_ in logits]
        self._right = [a + b for a, b in zip(self._right or [0] * len(right), right, strict=True)]

    def over_all(self, fabric: Fabric) -> Tally:
        """The same of all processes together."""
        mine = [self._loss, self._batches, float(self._images), *map(float, self._right)]
        counted = fabric.to_device(torch.tensor(mine, dtype=torch.float64))
        summed = fabric.all_reduce(counted, reduce_op="sum")
        assert isinstance(summed, torch.Tensor)
        loss, batches, images, *right = summed.tolist()
        whole = Tally()
        whole._loss, whole._batches, whole._images = loss, batches, round(images)
        whole._right = [round(count) for count in right]
        return whole

    @property
    def loss(self) -> float:
        """Mean over the batches."""
        return self._loss / self._batches

    @property
    def exit_accuracies(self) -> tuple[float, ...]:
        """Share of right answers of each exit."""
        return tuple(right / self._images for right in self._right)
