"""A relaxed network with a classifier for an objective at every place an exit may hang."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, final

import torch
from torch import Tensor, nn

from offramp_search.objectives import make_heads

if TYPE_CHECKING:
    from collections.abc import Mapping

    from offramp_search.objectives import Objective

__all__ = ["MixableNetwork", "RelaxedObjectiveNetwork"]


class MixableNetwork(Protocol):
    """A ``torch.nn.Module`` that answers as a mixture of all architectures of its space."""

    def relax(self, probabilities: Mapping[str, Tensor]) -> None:
        """Mix the architectures from here on."""

    def exit_widths(self, *, maps: bool) -> Mapping[str, int]:
        """Every place an exit of any architecture may read, and the channels there."""

    def exit_mixtures(
        self, image: Tensor, *, maps: bool
    ) -> tuple[tuple[tuple[str, Tensor, Tensor], ...], ...]:
        """For each exit all places it may read: name, probability, and what it reads there."""


@final
class RelaxedObjectiveNetwork(nn.Module):
    """Answers an objective at every exit of a mixture of architectures.

    The logits of an exit are the mean of those of all places where it may hang, weighed by how
    probable the place is.

    Args:
        network: A ``torch.nn.Module``; it is trained along.
        objective: What is asked.
        seed: For the classifiers.
    """

    def __init__(self, network: MixableNetwork, objective: Objective, *, seed: int = 0) -> None:
        super().__init__()
        assert isinstance(network, nn.Module)
        self.network = network
        self.objective = objective
        widths = network.exit_widths(maps=objective.reads_maps)
        self.heads = make_heads(widths, objective, seed=seed)

    def forward(self, image: Tensor, probabilities: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """What ``Examples.images`` holds -> ``(answers, classes)`` of every exit."""
        self.network.relax(probabilities)
        answers = []
        for mixture in self.network.exit_mixtures(image, maps=self.objective.reads_maps):
            parts = [
                share * self.heads[place](self.objective.arrange(read))
                for place, share, read in mixture
            ]
            answers.append(torch.stack(parts).sum(0))
        return tuple(answers)
