"""What stages run, step by step: the form that a space hands to blocks and stages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from offramp_search.spaces import _operators as op

__all__ = [
    "LOGITS",
    "RAW_IMAGE",
    "Channels",
    "Part",
    "Selected",
    "StagePlan",
    "Step",
    "Tensor",
    "hand_on",
]

Channels: TypeAlias = tuple[int, ...]
"""Numbers of channels of the whole network, in some order."""


class Part(NamedTuple):
    """The channels of a node that the stages from ``first`` to ``last`` compute."""

    node: int
    first: int
    last: int


class Selected(NamedTuple):
    """Some channels of a node, in an order of their own."""

    node: int
    channels: tuple[int, ...]


Tensor: TypeAlias = Part | Selected
"""The name of a tensor."""

RAW_IMAGE = Part(-1, 0, 0)
"""The image as the app has it."""
LOGITS = -2
"""In place of a node: the logits of a stage."""


@final
@dataclass(frozen=True, slots=True)
class Step:
    """One operator of a stage.

    Attributes:
        name: The node's, or what is done to it.
        operator: What it does.
        inputs: What it reads.
        output: What it computes.
        channels: Its output channels, numbered as in the base, where it has weights to load.
        reads: Its input channels, operand by operand, likewise.
    """

    name: str
    operator: op.Operator
    inputs: tuple[Tensor, ...]
    output: Tensor
    channels: Channels = ()
    reads: tuple[Channels, ...] = ()


@final
@dataclass(frozen=True, slots=True)
class StagePlan:
    """What one stage reads, runs and hands on.

    Attributes:
        carry: What it takes; of stage 0 the image.
        steps: In the order of computation; the last computes the logits.
        next_carry: What it returns after the logits.
    """

    carry: tuple[Tensor, ...]
    steps: tuple[Step, ...]
    next_carry: tuple[Tensor, ...]


def hand_on(stages: Sequence[Sequence[Step]]) -> tuple[StagePlan, ...]:
    """Let every stage hand on what later ones read and earlier ones or it have computed."""
    born = {step.output: stage for stage, steps in enumerate(stages) for step in steps}
    last_read: dict[Tensor, int] = {}
    for stage, steps in enumerate(stages):
        for step in steps:
            last_read.update(dict.fromkeys(step.inputs, stage))
    edges: list[tuple[Tensor, ...]] = [(RAW_IMAGE,)]
    for stage in range(1, len(stages)):
        carried = [t for t, at in born.items() if at < stage <= last_read.get(t, 0)]
        edges.append(tuple(sorted(carried, key=lambda t: (t[0], isinstance(t, Selected), t[1:]))))
    edges.append(())
    return tuple(
        StagePlan(edges[stage], tuple(steps), edges[stage + 1])
        for stage, steps in enumerate(stages)
    )
