"""Networks of the run that no other part knows."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from optuna.distributions import CategoricalDistribution, IntDistribution
from torch import Tensor, nn

from offramp.errors import DataError
from offramp_export.network import MultiStageNetwork

if TYPE_CHECKING:
    import numpy as np
    from optuna.distributions import BaseDistribution

    from offramp_export.network import Preprocess
    from offramp_search.bases import Base
    from offramp_search.spaces import Architecture, Space
    from offramp_search.spaces.static_transform import MaskedNetwork

__all__ = [
    "LastExit",
    "RandomSelection",
    "first_stage_alone",
    "random_architecture",
    "static_network",
]

_ATTEMPTS = 1_000


@final
class _WholeStage(nn.Module):
    """A static network as the only stage."""

    def __init__(self, preprocess: Preprocess, module: nn.Module) -> None:
        super().__init__()
        self.preprocess = preprocess
        self.module = module

    def forward(self, image: Tensor) -> tuple[Tensor]:
        return (self.module(self.preprocess(image)),)


@final
class _Unfollowed(nn.Module):
    """A first stage that nothing follows: it hands nothing on."""

    def __init__(self, stage: nn.Module) -> None:
        super().__init__()
        self.stage = stage

    def forward(self, image: Tensor) -> tuple[Tensor]:
        return (self.stage(image)[0],)


@final
class LastExit(nn.Module):
    """A teacher: answers images with the logits of the last exit."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.eval()

    def forward(self, image: Tensor) -> Tensor:
        """``(images, classes)`` logits."""
        logits: Tensor = self.network(image)[-1]
        return logits


@final
class RandomSelection:
    """Before each step of training, selects an architecture with every choice equally probable.

    Args:
        space: Where architectures are drawn from.
        network: The one that holds them all, or a part of what is trained.
    """

    def __init__(self, space: Space, network: MaskedNetwork) -> None:
        self._space = space
        self._network = network

    def __call__(self, step: int, generator: np.random.Generator) -> None:
        """Draw one, and select it."""
        self._network.select(random_architecture(self._space, generator))


def first_stage_alone(network: MultiStageNetwork) -> MultiStageNetwork:
    """A static network: the first stage of a multi-stage one, with its exit, sharing weights."""
    return MultiStageNetwork([_Unfollowed(network.stages[0])])


def static_network(base: Base) -> MultiStageNetwork:
    """The base as a network of one stage, sharing its weights."""
    return MultiStageNetwork([_WholeStage(base.preprocess, base.module)])


def random_architecture(space: Space, generator: np.random.Generator) -> Architecture:
    """An architecture with every choice equally probable among those that are not refused.

    Args:
        space: The search space.
        generator: What to draw from.

    Raises:
        DataError: A thousand draws in a row were refused.
    """
    decisions = space.decisions()
    reason = None
    for _ in range(_ATTEMPTS):
        architecture = {name: _draw(kind, generator) for name, kind in decisions.items()}
        reason = space.refusal(architecture)
        if reason is None:
            return architecture
    raise DataError(
        f"none of {_ATTEMPTS} random architectures is a valid network, the last one because "
        f"{reason}; use fewer stages or another base"
    )


def _draw(kind: BaseDistribution, generator: np.random.Generator) -> str | int:
    if isinstance(kind, CategoricalDistribution):
        choice: str | int = kind.choices[int(generator.integers(len(kind.choices)))]  # type: ignore[assignment]
        return choice
    if isinstance(kind, IntDistribution):
        choices = (kind.high - kind.low) // kind.step + 1
        return kind.low + kind.step * int(generator.integers(choices))
    raise DataError(f"cannot draw from {type(kind).__name__}")
