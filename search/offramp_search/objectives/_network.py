"""A network with a classifier for an objective at every exit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, final

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Mapping

    from offramp_search.objectives._base import Objective
    from offramp_search.spaces import Architecture

__all__ = ["ObjectiveNetwork", "ReadableNetwork", "arranged_reads", "make_heads"]


class ReadableNetwork(Protocol):
    """A ``torch.nn.Module`` that answers as any architecture of its space, and shows its exits."""

    def select(self, architecture: Architecture) -> None:
        """Answer as an architecture from here on."""

    def exit_widths(self, *, maps: bool) -> Mapping[str, int]:
        """Every place an exit of any architecture may read, and the channels there."""

    def exit_reads(self, image: Tensor, *, maps: bool) -> tuple[tuple[str, Tensor], ...]:
        """For each exit of the selected architecture the place it reads, and what it reads there.

        With all channels of the place; those that are not there by then are zero.
        """


def make_heads(widths: Mapping[str, int], objective: Objective, *, seed: int) -> nn.ModuleDict:
    """A linear classifier for an objective at every place.

    Args:
        widths: The channels of each place.
        objective: What is asked.
        seed: Of the weights; torch's own generator stays as it is.
    """
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        return nn.ModuleDict(
            {
                place: nn.Linear(objective.width(channels), objective.classes)
                for place, channels in widths.items()
            }
        )


@final
class ObjectiveNetwork(nn.Module):
    """Answers an objective at every exit.

    Args:
        network: A ``torch.nn.Module``; it is trained along.
        objective: What is asked.
        seed: For the classifiers.
    """

    def __init__(self, network: ReadableNetwork, objective: Objective, *, seed: int = 0) -> None:
        super().__init__()
        if not isinstance(network, nn.Module):
            raise TypeError(f"expected a torch.nn.Module, got a {type(network).__name__}")
        self.network = network
        self.objective = objective
        widths = network.exit_widths(maps=objective.reads_maps)
        self.heads = make_heads(widths, objective, seed=seed)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """What ``Examples.images`` holds -> ``(answers, classes)`` of every exit."""
        reads = self.network.exit_reads(image, maps=self.objective.reads_maps)
        return tuple(self.heads[place](self.objective.arrange(read)) for place, read in reads)


def arranged_reads(
    network: ReadableNetwork, objective: Objective, image: Tensor
) -> tuple[Tensor, ...]:
    """What the classifier of every exit reads: ``(answers, width)`` each.

    Args:
        network: An architecture selected.
        objective: What is asked.
        image: What ``Examples.images`` holds.
    """
    reads = network.exit_reads(image, maps=objective.reads_maps)
    return tuple(objective.arrange(read) for _, read in reads)
