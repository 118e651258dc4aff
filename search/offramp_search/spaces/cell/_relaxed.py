"""All stacks of cells at once, each as far as it is probable."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor, nn

from offramp_search.spaces import _operators as op
from offramp_search.spaces._steps import RAW_IMAGE
from offramp_search.spaces.cell import _form
from offramp_search.spaces.cell._plan import Planner

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from optuna.distributions import CategoricalDistribution

    from offramp_export.network import Preprocess
    from offramp_search.spaces._steps import Step
    from offramp_search.spaces._steps import Tensor as Name
    from offramp_search.spaces.cell._plan import Stack

__all__ = ["RelaxedCells"]

_Probabilities = dict[str, dict[str, Tensor]]


@final
@dataclass(frozen=True, slots=True)
class _Block:
    """A block of one cell: every operation on every input.

    Attributes:
        steps: What computes them.
        outputs: Input -> operation -> what is computed.
    """

    steps: list[Step]
    outputs: dict[str, dict[str, Name]]


@final
@dataclass(frozen=True, slots=True)
class _Cell:
    """One cell.

    Attributes:
        steps: What brings the inputs to its size and its filters.
        blocks: First to last.
        sums: What each block computes.
        output: All of them joined.
    """

    steps: list[Step]
    blocks: list[_Block]
    sums: list[Name]
    output: Name


@final
class RelaxedCells(nn.Module):
    """Stacks of cells in which every block is a mixture of all operations on all inputs.

    DARTS (Liu et al. 2019, arXiv 1806.09055, equation 2) mixes the operations of an edge; a block
    of PNAS chooses its two inputs as well, so these are mixed too. The two halves of a block read
    one set of operations, each with its own probabilities. A block counts by the probability that
    it is there, and in the joined output of its cell by that of not being read. Under a
    distribution that is sure of one architecture this is the network that ``Cell.build`` makes of
    it, where equal halves of a block share their weights.

    Args:
        stack: How cells are stacked.
        decisions: Of the space.
        blocks: Of a cell, at most.
        exits: What places the exits: the decision's name.
        preprocess: Normalises the image.
        seed: Of the weights.
    """

    def __init__(
        self,
        stack: Stack,
        decisions: Mapping[str, CategoricalDistribution],
        blocks: int,
        exits: str,
        preprocess: Preprocess,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self._choices = {name: tuple(map(str, kind.choices)) for name, kind in decisions.items()}
        self._blocks, self._exits = blocks, exits
        self._ends = _ends(self._choices[exits])
        self._probabilities: _Probabilities = {}
        self.preprocess = preprocess
        self.layers = nn.ModuleDict()
        planner = Planner(stack)
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(seed)
            self._stem_output = planner.stem()
            self._stem = self._take(planner)
            self._cells = self._stack(planner, stack)
        self._widths = [planner.shapes[cell.output][1] for cell in self._cells]

    def _stack(self, planner: Planner, stack: Stack) -> list[_Cell]:
        cells: list[_Cell] = []
        previous = before = self._stem_output
        filters = stack.filters
        for number, stride in enumerate(stack.strides):
            filters *= stride
            name = f"cell{number}"
            read = {_form.PREVIOUS: previous, _form.BEFORE: before}
            size = planner.shapes[previous][2:]
            sources = planner.inputs(name, read, size, filters)
            steps = self._take(planner)
            shape = (1, filters, *(-(-side // stride) for side in size))
            blocks, sums = [], []
            for block in range(1, self._blocks + 1):
                outputs = {
                    source: {
                        operation: planner.operate(
                            f"{name}_block{block}_{source}_{operation}",
                            operation,
                            sources[source],
                            stride if source in read else 1,
                        )
                        for operation in _form.OPERATIONS
                    }
                    for source in _form.inputs_of(block)
                }
                blocks.append(_Block(self._take(planner), outputs))
                sums.append(planner.declare(shape))
                sources[f"block_{block}"] = sums[-1]
            output = planner.declare((1, self._blocks * filters, *shape[2:]))
            cells.append(_Cell(steps, blocks, sums, output))
            previous, before = output, previous
        return cells

    def _take(self, planner: Planner) -> list[Step]:
        steps = planner.take()
        for step in steps:
            self.layers[step.name] = (
                self.preprocess
                if isinstance(step.operator, op.Normalise)
                else step.operator.module()
            )
        return steps

    def relax(self, probabilities: Mapping[str, Tensor]) -> None:
        """Mix the architectures from here on.

        Args:
            probabilities: For every decision ``(choices,)``; gradients flow back to them.
        """
        self._probabilities = {
            name: dict(zip(choices, probabilities[name].unbind(), strict=True))
            for name, choices in self._choices.items()
        }

    def exit_widths(self, *, maps: bool) -> Mapping[str, int]:
        """Every place an exit of any architecture may read, and the channels there."""
        return {
            _place(stage, cell): self._widths[cell]
            for stage, cells in enumerate(self._ends)
            for cell in cells
        }

    def exit_mixtures(
        self, image: Tensor, *, maps: bool
    ) -> tuple[tuple[tuple[str, Tensor, Tensor], ...], ...]:
        """For each exit all places it may read: name, probability, and what it reads there.

        Args:
            image: ``(images, height, width, 3)`` float32, RGB, 0 to 255.
            maps: Whether the map before the pooling is asked for, not what the classifier reads.

        Raises:
            RuntimeError: ``relax`` was not called.
        """
        if not self._probabilities:
            raise RuntimeError("No distribution is set; call relax(probabilities) first.")
        read = [values.relu() for values in self._outputs(image)]
        if not maps:
            read = [values.mean((2, 3)) for values in read]
        chosen = self._probabilities[self._exits]
        return tuple(
            tuple(
                (_place(stage, cell), _sum([chosen[choice] for choice in choices]), read[cell])
                for cell, choices in cells.items()
            )
            for stage, cells in enumerate(self._ends)
        )

    def _outputs(self, image: Tensor) -> list[Tensor]:
        """What every cell computes."""
        values = self._run(self._stem, {RAW_IMAGE: image})
        alone = [self._not_read(block) for block in range(1, self._blocks + 1)]
        found = []
        for cell in self._cells:
            values = self._run(cell.steps, values)
            for block, (parts, name) in enumerate(zip(cell.blocks, cell.sums, strict=True), 1):
                values[name] = self._mix(block, parts, values)
            joined = [values[name] * share for name, share in zip(cell.sums, alone, strict=True)]
            values[cell.output] = torch.cat(joined, 1)
            found.append(values[cell.output])
        return found

    def _run(self, steps: Sequence[Step], values: dict[Name, Tensor]) -> dict[Name, Tensor]:
        values = dict(values)
        for step in steps:
            values[step.output] = self.layers[step.name](*(values[name] for name in step.inputs))
        return values

    def _mix(self, block: int, parts: _Block, values: dict[Name, Tensor]) -> Tensor:
        """The sum of two halves, each a mixture; zero as far as the block is not there."""
        input_1, op_1, input_2, op_2 = (self._probabilities[name] for name in _form.names_of(block))
        there = self._there(block)
        computed = self._run(parts.steps, values)
        return _sum(
            [
                computed[name]
                * (input_1[source] * op_1[operation] + there * input_2[source] * op_2[operation])
                for source, outputs in parts.outputs.items()
                for operation, name in outputs.items()
            ]
        )

    def _there(self, block: int) -> Tensor:
        first = self._probabilities[_form.names_of(block)[0]]
        return _sum([share for source, share in first.items() if source != _form.ABSENT])

    def _not_read(self, block: int) -> Tensor:
        """The probability that no later block reads a block."""
        share = self._there(1).new_ones(())
        for later in range(block + 1, self._blocks + 1):
            input_1, _, input_2, _ = (self._probabilities[name] for name in _form.names_of(later))
            there, source = self._there(later), f"block_{block}"
            share = share * (1 - there + (there - input_1[source]) * (1 - input_2[source]))
        return share


def _ends(choices: Sequence[str]) -> list[dict[int, list[str]]]:
    """For each stage: the cell that it may end with -> the choices in which it does."""
    found: list[dict[int, list[str]]] = [{} for _ in choices[0].split("+")]
    for choice in choices:
        end = -1
        for stage, cells in enumerate(choice.split("+")):
            end += int(cells)
            found[stage].setdefault(end, []).append(choice)
    return found


def _place(stage: int, cell: int) -> str:
    return f"{stage}_cell{cell}"


def _sum(parts: Sequence[Tensor]) -> Tensor:
    return sum(parts[1:], parts[0])
