"""Every architecture answers with one set of weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import numpy as np
from torch import nn

from offramp_search.evaluators._base import Evaluator, Outputs
from offramp_search.evaluators._exits import exit_features, fit_exits
from offramp_search.evaluators._heads import HeadedNetwork, fit_all_exits
from offramp_search.evaluators._recalibrate import recalibrate, restored
from offramp_search.evaluators._train_head import HEAD_RECIPE
from offramp_search.training import evaluate

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from offramp_search.data import ImageSet
    from offramp_search.evaluators._exits import SelectableNetwork
    from offramp_search.spaces import Architecture
    from offramp_search.training import Recipe

__all__ = ["SharedWeights"]


@final
class SharedWeights(Evaluator):
    """Selects the architecture in a network of shared weights: no training per architecture.

    Two things that are shared fit no architecture, and are made anew on training images. The
    statistics of batch normalisation were gathered over all architectures. And the classifier of
    an exit in the middle of the network was trained only with the few architectures whose exit
    hangs there: every exit is given the classifier that fits its features best, so that no
    architecture is judged by luck. Where exits have heads (``StaticTransform``'s
    ``exit_head_channels``), these are trained with their classifiers for a few seconds, on what the
    shared layers computed once. The network itself stays as it is.

    Args:
        network: Trained for all architectures together; a ``torch.nn.Module``.
        train: Where the images for both are drawn from.
        search: The search-validation split.
        recalibration_images: How many are drawn for the statistics.
        fitting_images: How many are drawn for the classifiers; 0 leaves them as they are. Heads
            want some thousand.
        head_recipe: How to train heads.
        batch_size: Images per forward pass.
    """

    def __init__(
        self,
        network: SelectableNetwork,
        *,
        train: ImageSet,
        search: ImageSet,
        recalibration_images: int = 512,
        fitting_images: int = 1_500,
        head_recipe: Recipe = HEAD_RECIPE,
        batch_size: int = 256,
    ) -> None:
        if not isinstance(network, nn.Module):
            raise TypeError(f"expected a torch.nn.Module, got a {type(network).__name__}")
        if recalibration_images < 1 or batch_size < 1 or fitting_images < 0:
            raise ValueError(
                "recalibration_images and batch_size must be at least 1 and fitting_images at "
                f"least 0, got {recalibration_images}, {batch_size} and {fitting_images}"
            )
        self._network = network
        self._module: nn.Module = network
        self._train = train
        self._search = search
        self._recalibration_images = min(recalibration_images, len(train))
        self._fitting_images = min(fitting_images, len(train))
        self._head_recipe = head_recipe
        self._batch_size = batch_size

    def evaluate(self, architecture: Architecture, *, seed: int) -> Outputs:
        """Outputs of every exit; the seed draws the training images, and their order for heads.

        Raises:
            TrainingError: The features of an exit are not finite.
        """
        drawn = np.random.default_rng(seed).permutation(len(self._train))
        self._network.select(architecture)
        with restored(self._module):
            rows = np.sort(drawn[: self._recalibration_images])
            recalibrate(self._module, self._train.images[rows], batch_size=self._batch_size)
            logits = self._answer(np.sort(drawn[: self._fitting_images]), seed)
        return Outputs(logits, self._search.labels)

    def _answer(self, rows: NDArray[np.integer], seed: int) -> NDArray[np.float32]:
        network, images, batch_size = self._network, self._search.images, self._batch_size
        if not len(rows):
            return evaluate(self._module, self._search, batch_size=batch_size)
        fitting = self._train.take(rows)
        if isinstance(network, HeadedNetwork) and network.heads():
            fitted = fit_all_exits(
                network,
                fitting,
                generator=np.random.default_rng([seed, 1]),
                recipe=self._head_recipe,
                batch_size=batch_size,
            )
            return fitted.logits(network, images, batch_size=batch_size)
        exits = fit_exits(network, fitting, batch_size=batch_size)
        features = exit_features(network, images, batch_size=batch_size)
        return np.stack([exit.logits(part) for exit, part in zip(exits, features, strict=True)])
