"""The exits of a network of shared weights, each with the classifier that suits its features."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from offramp_search.evaluators._fit_exit import LinearExit, fit_exit

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from offramp_search.data import ImageSet
    from offramp_search.spaces import Architecture

__all__ = ["SelectableNetwork", "exit_features", "fit_exits"]


class SelectableNetwork(Protocol):
    """A ``torch.nn.Module`` that can answer as any architecture of its space."""

    @property
    def num_classes(self) -> int:
        """Outputs of every exit."""

    def select(self, architecture: Architecture) -> None:
        """Answer as an architecture from here on."""

    def exit_features(self, image: Tensor) -> tuple[Tensor, ...]:
        """What the classifier of each exit reads, ``(images, width)``, first to last."""

    def __call__(self, image: Tensor) -> tuple[Tensor, ...]:
        """``(images, height, width, 3)`` float32, 0 to 255 -> ``(images, classes)`` per exit."""


def exit_features(
    network: SelectableNetwork, images: NDArray[np.uint8], *, batch_size: int = 256
) -> tuple[NDArray[np.float32], ...]:
    """What the classifier of each exit reads, under the architecture that is selected.

    Args:
        network: In evaluation mode.
        images: ``(images, height, width, 3)`` uint8.
        batch_size: Images per forward pass.

    Returns:
        Per exit ``(images, width)`` float32.
    """
    assert isinstance(network, torch.nn.Module)
    device = next(network.parameters()).device
    with torch.inference_mode():
        batches = [
            [part.float().cpu().numpy() for part in network.exit_features(batch.to(device).float())]
            for batch in torch.split(torch.from_numpy(images), batch_size)
        ]
    return tuple(np.concatenate(parts) for parts in zip(*batches, strict=True))


def fit_exits(
    network: SelectableNetwork, data: ImageSet, *, batch_size: int = 256
) -> tuple[LinearExit, ...]:
    """The classifier of each exit that fits the features of some images best.

    Heads stay as they are; ``fit_all_exits`` trains them too.

    Args:
        network: In evaluation mode, an architecture selected.
        data: A few thousand images of the training split.
        batch_size: Images per forward pass.

    Raises:
        TrainingError: The features are not finite.
    """
    features = exit_features(network, data.images, batch_size=batch_size)
    return tuple(fit_exit(part, data.labels, classes=network.num_classes) for part in features)
