"""The interface of a search space, and of the blocks whose latency is looked up."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Hashable

    from optuna.distributions import BaseDistribution
    from torch import nn

    from offramp_export.network import MultiStageNetwork

__all__ = ["Architecture", "Block", "Space"]

Architecture = Mapping[str, str | int]
"""The decisions that define one multi-stage network: decision name -> choice."""


class Block(ABC):
    """A piece of a stage whose latency is measured on its own.

    Two blocks with equal keys take equal time, whatever their weights. A block can be rebuilt from
    its key's content alone.
    """

    @property
    @abstractmethod
    def key(self) -> str:
        """Everything that decides the latency: operators, shapes, strides, activation."""

    @property
    @abstractmethod
    def input_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Torch shapes, batch 1, of the tensors it reads."""

    @abstractmethod
    def module(self) -> nn.Module:
        """A module in evaluation mode with random weights that computes the block.

        It takes tensors of ``input_shapes`` and returns one tensor.
        """


class Space(ABC):
    """All architectures of one family, their decisions, and how to build each one.

    Everything here is a pure function of the architecture, so a space may be shared by any number
    of samplers, evaluators and workers.
    """

    @property
    @abstractmethod
    def num_stages(self) -> int:
        """Stages of every network of this space."""

    @abstractmethod
    def decisions(self) -> Mapping[str, BaseDistribution]:
        """Decision name -> the choices there are, in the order they are best taken."""

    def units(self) -> tuple[int, ...]:
        """How many decisions, one after the other, belong together; one each by default."""
        return (1,) * len(self.decisions())

    def neutral(self) -> Architecture | None:
        """A plain working network to begin a progressive search with, where the space names one."""
        return None

    def landmarks(self) -> tuple[Architecture, ...]:
        """Architectures that anybody would try without a search, for a search to begin with."""
        return ()

    def canonical(self, architecture: Architecture) -> Hashable:
        """Equal for architectures that nothing tells apart; by default only for equal ones."""
        return tuple(architecture[name] for name in self.decisions())

    def identity(self, architecture: Architecture) -> Hashable:
        """Equal for architectures of which ``build`` makes the same network; evaluated once.

        By default ``canonical``. They may differ once more is decided in the same way for both,
        which a sampler that decides step by step has to tell apart, so ``canonical`` does.
        """
        return self.canonical(architecture)

    @abstractmethod
    def refusal(self, architecture: Architecture) -> str | None:
        """Why these decisions make no valid network, in one sentence, or ``None`` if they do.

        Costs no forward pass.
        """

    @abstractmethod
    def build(self, architecture: Architecture) -> MultiStageNetwork:
        """A new network with its own weights, warm-started where the space has some.

        Raises:
            ValueError: The architecture is refused, or a decision is missing or unknown.
        """

    @abstractmethod
    def cost(self, architecture: Architecture) -> tuple[int, ...]:
        """Multiply-adds that each stage adds, exits included."""

    @abstractmethod
    def parameters(self, architecture: Architecture) -> tuple[int, ...]:
        """Parameters that each stage adds, exits included."""

    @abstractmethod
    def blocks(self, architecture: Architecture) -> tuple[tuple[Block, ...], ...]:
        """The blocks of each stage, for the latency table."""
