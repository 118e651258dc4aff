"""What every base is: a static CNN and what normalises its images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from torch import nn

    from offramp_export.network import Preprocess

__all__ = ["Base"]


@final
@dataclass(frozen=True, slots=True)
class Base:
    """A static CNN to start from.

    Attributes:
        name: As given to ``load_base``.
        module: ``(images, 3, height, width)`` normalised float32 -> ``(images, classes)`` logits.
        preprocess: Normalises ``(images, height, width, 3)`` float32, RGB, 0 to 255 for it.
    """

    name: str
    module: nn.Module
    preprocess: Preprocess
