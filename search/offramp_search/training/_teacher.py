"""The answers to distil from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Callable

    from lightning_fabric import Fabric
    from torch import Tensor

    from offramp_search.training._recipe import Recipe

__all__ = ["Teacher"]


class Teacher:
    """Answers once per image if images never change, once per batch otherwise.

    A module computes where the network is trained, until ``close``.
    """

    def __init__(
        self,
        teacher: Callable[[Tensor], Tensor],
        images: Tensor,
        recipe: Recipe,
        fabric: Fabric,
    ) -> None:
        self._teacher = teacher
        if isinstance(teacher, nn.Module):
            fabric.to_device(teacher.eval())
        self._cache: Tensor | None = None
        if not recipe.augments and recipe.epochs > 1:
            with torch.no_grad():
                self._cache = torch.cat(
                    [
                        teacher(fabric.to_device(part.float())).float().cpu()
                        for part in torch.split(images, 256)
                    ]
                )

    def __call__(self, batch: Tensor, rows: Tensor) -> Tensor:
        """``(images, classes)`` for the images of a batch, which are at these rows."""
        if self._cache is not None:
            return self._cache[rows].to(batch.device)
        with torch.no_grad():
            return self._teacher(batch).float()

    def close(self) -> None:
        """Leave the teacher on the processor, where it is expected by others."""
        if isinstance(self._teacher, nn.Module):
            self._teacher.cpu()
