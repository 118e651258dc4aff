"""What a network answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn

    from offramp_search.data import ImageSet

__all__ = ["accuracies", "evaluate"]


def evaluate(network: nn.Module, data: ImageSet, *, batch_size: int = 256) -> NDArray[np.float32]:
    """Logits of every exit of every image, in evaluation mode.

    Args:
        network: Maps ``(images, height, width, 3)`` float32, 0 to 255, to a tuple of logits. It
            is left in the mode it was in.
        data: The images.
        batch_size: Images per step.

    Returns:
        ``(exits, images, classes)`` float32.
    """
    device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    was_training = network.training
    network.eval()
    try:
        with torch.inference_mode():
            batches = [
                torch.stack(
                    network(
                        torch.from_numpy(data.images[start : start + batch_size]).to(device).float()
                    )
                )
                .float()
                .cpu()
                .numpy()
                for start in range(0, len(data), batch_size)
            ]
    finally:
        network.train(was_training)
    return np.concatenate(batches, axis=1)


def accuracies(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> tuple[float, ...]:
    """Share of right answers of each exit.

    Args:
        logits: ``(exits, images, classes)``.
        labels: ``(images,)``.
    """
    return tuple(float(share) for share in (logits.argmax(axis=-1) == labels).mean(axis=-1))
