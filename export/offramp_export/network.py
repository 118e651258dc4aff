"""The torch side of a multi-stage network."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["MultiStageNetwork", "Preprocess"]


@final
class Preprocess(nn.Module):
    """From the image as the app has it to what a network was trained on.

    Takes ``(images, height, width, 3)`` float32, RGB, 0 to 255; gives ``(images, 3, height,
    width)`` float32, ``(image / 255 - mean) / std`` per channel. It is the first thing in stage 0,
    so that no binding has to normalise anything.

    Args:
        mean: Per channel, of images between 0 and 1.
        std: Per channel, of images between 0 and 1.
    """

    scale: Tensor
    offset: Tensor

    def __init__(
        self,
        mean: Sequence[float] = (0.485, 0.456, 0.406),
        std: Sequence[float] = (0.229, 0.224, 0.225),
    ) -> None:
        super().__init__()
        mean_, std_ = torch.tensor(mean), torch.tensor(std)
        self.register_buffer("scale", (1 / (255 * std_)).view(1, -1, 1, 1))
        self.register_buffer("offset", (-mean_ / std_).view(1, -1, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        """Normalise a batch of images."""
        return image.permute(0, 3, 1, 2) * self.scale + self.offset


@final
class MultiStageNetwork(nn.Module):
    """Stages in a row: ``stage(*carry) -> (logits, *next_carry)``.

    Stage 0 takes ``(images, height, width, 3)`` float32, RGB, 0 to 255. Inside torch a carry is a
    tuple of ``(images, channels, height, width)`` or ``(images, features)`` tensors; exporters put
    maps into the channel-last layout that their runtime wants. The last stage returns
    ``(logits,)``.

    Args:
        stages: The stages, first to last.
    """

    def __init__(self, stages: Iterable[nn.Module]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Run all stages.

        Args:
            image: ``(images, height, width, 3)`` float32, RGB, 0 to 255.

        Returns:
            The ``(images, classes)`` logits of every exit, first to last.
        """
        logits: list[Tensor] = []
        carry: tuple[Tensor, ...] = (image,)
        for stage in self.stages:
            exit_logits, *next_carry = stage(*carry)
            logits.append(exit_logits)
            carry = tuple(next_carry)
        return tuple(logits)
