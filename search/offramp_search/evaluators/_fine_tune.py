"""Every architecture is trained on its own for a while."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import torch

from offramp_search.evaluators._base import Evaluator, Outputs
from offramp_search.training import Hardware, evaluate, train

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

    from offramp_search.data import ImageSet
    from offramp_search.spaces import Architecture
    from offramp_search.training import Recipe

__all__ = ["FineTune"]


@final
class FineTune(Evaluator):
    """Builds the network, trains it for a few epochs and runs it, as S2DNAS does.

    Args:
        build: Makes the network of an architecture, warm-started if it can be: ``space.build``,
            or one that takes the weights from a network of shared ones.
        train: The training split.
        search: The search-validation split.
        recipe: How to train; one to three epochs are the rule.
        teacher: Gives ``(images, classes)`` logits to distil from; takes what the network takes.
        hardware: What to train on; ``None`` is one device.
    """

    def __init__(
        self,
        build: Callable[[Architecture], nn.Module],
        *,
        train: ImageSet,
        search: ImageSet,
        recipe: Recipe,
        teacher: Callable[[Tensor], Tensor] | None = None,
        hardware: Hardware | None = None,
    ) -> None:
        self._build = build
        self._train = train
        self._search = search
        self._recipe = recipe
        self._teacher = teacher
        self._hardware = hardware or Hardware()

    def evaluate(self, architecture: Architecture, *, seed: int) -> Outputs:
        """Outputs of every exit; the seed decides new weights and the order of the images.

        Raises:
            TrainingError: The loss is no longer a finite number.
        """
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(seed)
            network = self._build(architecture)
        train(
            network,
            self._train,
            recipe=self._recipe,
            teacher=self._teacher,
            seed=seed,
            hardware=self._hardware,
        )
        return Outputs(evaluate(network, self._search), self._search.labels)
