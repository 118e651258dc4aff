"""Augmentation of a batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from offramp_search.training._recipe import Recipe

__all__ = ["make_augmentation"]


def make_augmentation(
    recipe: Recipe, image_shape: tuple[int, int]
) -> Callable[[Tensor], Tensor] | None:
    """A function of ``(images, height, width, 3)`` float32 batches, or ``None``.

    It draws from torch's own generator, which the caller seeds.
    """
    if not recipe.augments:
        return None
    from kornia import augmentation

    steps: list[Any] = []
    if recipe.pad_crop:
        steps.append(augmentation.RandomCrop(image_shape, padding=recipe.pad_crop))
    if recipe.horizontal_flip:
        steps.append(augmentation.RandomHorizontalFlip(p=0.5))
    together = torch.nn.Sequential(*steps)

    def augment(images: Tensor) -> Tensor:
        result: Tensor = together(images.permute(0, 3, 1, 2))
        return result.permute(0, 2, 3, 1)

    return augment
