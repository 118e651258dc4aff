"""Every architecture answers with one set of weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, final

import numpy as np
import torch
from torch import nn

from offramp_search.evaluators._base import Evaluator, Outputs
from offramp_search.evaluators._recalibrate import recalibrate
from offramp_search.training import evaluate

if TYPE_CHECKING:
    from torch import Tensor

    from offramp_search.data import ImageSet
    from offramp_search.spaces import Architecture

__all__ = ["SelectableNetwork", "SharedWeights"]


class SelectableNetwork(Protocol):
    """A ``torch.nn.Module`` that can answer as any architecture of its space."""

    def select(self, architecture: Architecture) -> None:
        """Answer as an architecture from here on."""

    def __call__(self, image: Tensor) -> tuple[Tensor, ...]:
        """``(images, height, width, 3)`` float32, 0 to 255 -> ``(images, classes)`` per exit."""


@final
class SharedWeights(Evaluator):
    """Selects the architecture in a network of shared weights: no training per architecture.

    Before the split is run, the statistics of batch normalisation are taken anew on training
    images; afterwards the network has its own again.

    Args:
        network: Trained for all architectures together; a ``torch.nn.Module``.
        train: Where the images for the statistics are drawn from.
        search: The search-validation split.
        recalibration_images: How many are drawn.
        batch_size: Images per forward pass.
    """

    def __init__(
        self,
        network: SelectableNetwork,
        *,
        train: ImageSet,
        search: ImageSet,
        recalibration_images: int = 512,
        batch_size: int = 256,
    ) -> None:
        if not isinstance(network, nn.Module):
            raise TypeError(f"expected a torch.nn.Module, got a {type(network).__name__}")
        if recalibration_images < 1 or batch_size < 1:
            raise ValueError(
                "recalibration_images and batch_size must be at least 1, got "
                f"{recalibration_images} and {batch_size}"
            )
        self._network = network
        self._select = network.select
        self._train = train
        self._search = search
        self._recalibration_images = min(recalibration_images, len(train))
        self._batch_size = batch_size

    def evaluate(self, architecture: Architecture, *, seed: int) -> Outputs:
        """Outputs of every exit; the seed draws the images for the statistics."""
        rows = np.random.default_rng(seed).choice(
            len(self._train), self._recalibration_images, replace=False
        )
        before = {name: kept.clone() for name, kept in self._network.named_buffers()}
        self._select(architecture)
        try:
            recalibrate(
                self._network, self._train.images[np.sort(rows)], batch_size=self._batch_size
            )
            logits = evaluate(self._network, self._search, batch_size=self._batch_size)
        finally:
            _restore(self._network, before)
        return Outputs(logits, self._search.labels)


def _restore(network: nn.Module, before: dict[str, Tensor]) -> None:
    """Give batch normalisation its statistics back, and leave what selecting changed."""
    with torch.no_grad():
        for name, kept in network.named_buffers():
            if name.endswith(("running_mean", "running_var", "num_batches_tracked")):
                kept.copy_(before[name])
