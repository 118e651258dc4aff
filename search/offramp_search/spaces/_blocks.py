"""Cutting a stage into blocks whose latency is measured once and looked up ever after."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, final

import msgspec
from torch import Tensor, nn

from offramp_search.spaces import _modules as modules
from offramp_search.spaces import _operators as op
from offramp_search.spaces._base import Block

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from offramp_search.spaces import _steps

__all__ = ["OperatorBlock", "cut"]

Shape = tuple[int, ...]


class _Step(NamedTuple):
    operator: op.Operator
    inputs: tuple[int, ...]


class _Content(NamedTuple):
    """Inputs by their shapes, steps by the slots they read: inputs first, then earlier steps."""

    inputs: tuple[Shape, ...]
    steps: tuple[_Step, ...]


@final
class OperatorBlock(Block):
    """A run of operators around one convolution or linear layer.

    Args:
        key: The JSON of its inputs' shapes and its operators.
    """

    def __init__(self, key: str) -> None:
        self._key = key

    @property
    def key(self) -> str:
        """JSON: what the latency depends on."""
        return self._key

    @property
    def input_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Torch shapes, batch 1, of what it reads."""
        return msgspec.json.decode(self._key, type=_Content).inputs

    def module(self) -> nn.Module:
        """The operators with random weights, in evaluation mode."""
        return _BlockModule(msgspec.json.decode(self._key, type=_Content)).eval()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, OperatorBlock) and other._key == self._key

    def __hash__(self) -> int:
        return hash(self._key)

    def __repr__(self) -> str:
        return f"OperatorBlock({self._key!r})"


_Moving: TypeAlias = modules.Concatenate | modules.Select | modules.SpatialSlice | modules.Pad


@final
class _BlockModule(nn.Module):
    """Runs a block's steps one after the other.

    Operators that only move channels or pixels are spelled channel-last. In a stage such an
    operator lies between convolutions and takes their layout; alone at the edge of a block the
    converter would leave it channel-first, between transposes that the stage does not have.
    """

    def __init__(self, content: _Content) -> None:
        super().__init__()
        self.steps = nn.ModuleList(step.operator.module() for step in content.steps)
        self._inputs = [step.inputs for step in content.steps]

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return what the last step computes."""
        values = list(inputs)
        for module, slots in zip(self.steps, self._inputs, strict=True):
            read = [values[slot] for slot in slots]
            if isinstance(module, _Moving) and read[0].ndim == 4:
                moved = module.channel_last(*(x.permute(0, 2, 3, 1) for x in read))
                values.append(moved.permute(0, 3, 1, 2))
            else:
                values.append(module(*read))
        return values[-1]


def cut(
    steps: Sequence[_steps.Step], shapes: Mapping[_steps.Tensor, Shape]
) -> tuple[OperatorBlock, ...]:
    """Cut a stage into blocks; every step is in exactly one.

    A convolution or linear layer begins a block and takes the concatenation or selection that
    feeds it along; whatever follows joins the block whose last result it reads. So all results of
    a block but the last feed into the last.

    Args:
        steps: Of one stage.
        shapes: Of every tensor that occurs, batch 1.
    """
    runs: list[list[_steps.Step]] = []
    anchored: list[bool] = []
    last: dict[_steps.Tensor, int] = {}  # a block's last result -> the block
    for step in steps:
        anchor = isinstance(step.operator, op.Convolution | op.SummedConvolution | op.Linear)
        opens = isinstance(step.operator, op.Concatenate | op.Select | op.Normalise)
        joined = None
        if not opens:
            # A layer joins what feeds it unless that has a layer already. A sum joins the latest
            # of what it reads, so that blocks only ever read earlier ones.
            open_to = [last[t] for t in step.inputs if t in last]
            joined = max((b for b in open_to if not (anchor and anchored[b])), default=None)
        if joined is None:
            runs.append([])
            anchored.append(False)
            joined = len(runs) - 1
        elif runs[joined]:
            del last[runs[joined][-1].output]
        runs[joined].append(step)
        anchored[joined] |= anchor
        last[step.output] = joined
    return tuple(_block(run, shapes) for run in runs)


def _block(run: Sequence[_steps.Step], shapes: Mapping[_steps.Tensor, Shape]) -> OperatorBlock:
    made = {step.output for step in run}
    inputs = list(dict.fromkeys(t for step in run for t in step.inputs if t not in made))
    slots = {tensor: slot for slot, tensor in enumerate([*inputs, *(s.output for s in run)])}
    content = _Content(
        tuple(shapes[tensor] for tensor in inputs),
        tuple(_Step(step.operator, tuple(slots[t] for t in step.inputs)) for step in run),
    )
    return OperatorBlock(_encode(content))


@lru_cache(65536)
def _encode(content: _Content) -> str:
    return msgspec.json.encode(content).decode()
