"""Batch normalisation for weights that were trained as part of something else."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch.nn.modules.batchnorm import _BatchNorm

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

__all__ = ["recalibrate", "restored"]


def recalibrate(
    network: nn.Module,
    images: NDArray[np.uint8] | NDArray[np.float16] | NDArray[np.float32],
    *,
    batch_size: int = 256,
) -> None:
    """Replace the running statistics of batch normalisation by those of some training images.

    Shared weights see other inputs in each architecture, so statistics kept from training fit
    none of them (Yu and Huang 2019, section 3.2). Only batch normalisation runs as in training;
    dropout stays off, and the network is left in the mode it was in.

    Args:
        network: Takes ``(images, height, width, 3)`` float32, 0 to 255; or a part of a network,
            which takes maps.
        images: What it takes, in any precision, of a few hundred images from the training split.
        batch_size: Images per batch; the mean over batches is kept.
    """
    layers = [
        layer
        for layer in network.modules()
        if isinstance(layer, _BatchNorm) and layer.track_running_stats
    ]
    if not layers:
        return
    device = next(network.parameters()).device
    was_training = network.training
    momenta = [layer.momentum for layer in layers]
    network.eval()
    try:
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None  # the plain mean of all batches
            layer.train()
        with torch.no_grad():
            # Parts of equal size, since each counts the same.
            for part in torch.from_numpy(images).chunk(max(1, len(images) // batch_size)):
                network(part.to(device).float())
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
        network.train(was_training)


@contextmanager
def restored(network: nn.Module) -> Iterator[None]:
    """Give batch normalisation its statistics back at the end, and leave what selecting changed."""
    before = {name: kept.clone() for name, kept in network.named_buffers()}
    try:
        yield
    finally:
        with torch.no_grad():
            for name, kept in network.named_buffers():
                if name.endswith(("running_mean", "running_var", "num_batches_tracked")):
                    kept.copy_(before[name])
