"""From a cell to the steps of every stage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from offramp_search.spaces import _operators as op
from offramp_search.spaces._steps import LOGITS, RAW_IMAGE, Part, Step, hand_on
from offramp_search.spaces.cell._form import BEFORE, PREVIOUS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from offramp_search.spaces._steps import StagePlan, Tensor
    from offramp_search.spaces.cell._form import CellBlock

__all__ = ["Planner", "Stack", "count", "plan"]

_EPSILON = 1e-5
_MOMENTUM = 0.1
_DILATION = 2

Shape = tuple[int, ...]


@final
@dataclass(frozen=True, slots=True)
class Stack:
    """How cells are stacked.

    Attributes:
        image_shape: Height and width.
        classes: Of the exits.
        filters: Of the cells before the first stride.
        strides: Of each cell, first to last; a stride of two doubles the filters.
    """

    image_shape: tuple[int, int]
    classes: int
    filters: int
    strides: tuple[int, ...]


def plan(
    stack: Stack, blocks: Sequence[CellBlock], cells_per_stage: Sequence[int]
) -> tuple[tuple[StagePlan, ...], dict[Tensor, Shape]]:
    """The stages, without what no exit needs, and the shape of every tensor."""
    planner = Planner(stack)
    stages: list[list[Step]] = []
    previous = before = planner.stem()
    filters = stack.filters
    strides = iter(enumerate(stack.strides))
    for stage, cells in enumerate(cells_per_stage):
        for _ in range(cells):
            number, stride = next(strides)
            filters *= stride
            output = planner.cell(f"cell{number}", blocks, previous, before, filters, stride)
            previous, before = output, previous
        planner.exit(stage, previous)
        stages.append(planner.take())
    needed = {Part(LOGITS, stage, stage) for stage in range(len(stages))}
    for steps in reversed(stages):
        for step in reversed(steps):
            if step.output in needed:
                needed.update(step.inputs)  # type: ignore[arg-type]
    kept = [[step for step in steps if step.output in needed] for steps in stages]
    return hand_on(kept), planner.shapes


def count(step: Step, shapes: dict[Tensor, Shape]) -> tuple[int, int]:
    """Multiply-adds and parameters of a step."""
    operator = step.operator
    if isinstance(operator, op.Convolution):
        height, width = operator.kernel
        weights = operator.outputs * (operator.inputs // operator.groups) * height * width
        pixels = shapes[step.output][2] * shapes[step.output][3]
        return weights * pixels, weights + (operator.outputs if operator.bias else 0)
    if isinstance(operator, op.Linear):
        weights = operator.inputs * operator.outputs
        return weights, weights + (operator.outputs if operator.bias else 0)
    if isinstance(operator, op.BatchNorm):
        return 0, 2 * operator.channels
    return 0, 0


class Planner:
    """Emits steps and remembers the shapes of what they compute."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._steps: list[Step] = []
        self._nodes = 0
        self._rectified: dict[Tensor, Tensor] = {}
        self.shapes: dict[Tensor, Shape] = {RAW_IMAGE: (1, 3, *stack.image_shape)}

    def take(self) -> list[Step]:
        """The steps since the last time; what they rectified is not used again."""
        taken, self._steps = self._steps, []
        self._rectified = {}
        return taken

    def stem(self) -> Tensor:
        """A convolution of the image."""
        image = self._emit("preprocess", op.Normalise(), (RAW_IMAGE,), self.shapes[RAW_IMAGE])
        return self._convolve("stem", image, self._stack.filters, (3, 3))

    def cell(
        self,
        name: str,
        blocks: Sequence[CellBlock],
        previous: Tensor,
        before: Tensor,
        filters: int,
        stride: int,
    ) -> Tensor:
        """One cell; its output joins the blocks that no other block reads."""
        read = {half.source for block in blocks for half in block}
        inputs = {PREVIOUS: previous, BEFORE: before}
        read_cells = {source: inputs[source] for source in inputs if source in read}
        sources: dict[str | int, Tensor] = {}
        sources.update(self.inputs(name, read_cells, self.shapes[previous][2:], filters))
        for number, block in enumerate(blocks):
            halves = []
            for side, half in zip(("left", "right"), block, strict=True):
                step = stride if isinstance(half.source, str) else 1
                at = f"{name}_block{number + 1}_{side}"
                halves.append(self.operate(at, half.operation, sources[half.source], step))
            shape = self.shapes[halves[0]]
            sum_of = (halves[0], halves[1])
            sources[number] = self._emit(f"{name}_block{number + 1}", op.Add(), sum_of, shape)
        outputs = [sources[at] for at in range(len(blocks)) if at not in read]
        if len(outputs) == 1:
            return outputs[0]
        shape = self.shapes[outputs[0]]
        joined = (1, shape[1] * len(outputs), *shape[2:])
        return self._emit(f"{name}_joined", op.Concatenate(), tuple(outputs), joined)

    def inputs(
        self, name: str, cells: Mapping[str, Tensor], size: tuple[int, ...], filters: int
    ) -> dict[str, Tensor]:
        """Outputs of earlier cells, brought to a number of filters and a size of the maps."""
        found = {}
        for source, tensor in cells.items():
            # The cell before the previous one may have maps of twice the size.
            shrink = 1 if self.shapes[tensor][2:] == size else 2
            rectified = self._rectify(f"{name}_{source}", tensor)
            found[source] = self._convolve(
                f"{name}_{source}", rectified, filters, (1, 1), stride=(shrink, shrink)
            )
        return found

    def declare(self, shape: Shape) -> Tensor:
        """A tensor that somebody else computes."""
        output = Part(self._nodes, 0, 0)
        self._nodes += 1
        self.shapes[output] = shape
        return output

    def exit(self, stage: int, features: Tensor) -> None:
        """Average over the maps, and a linear layer."""
        channels = self.shapes[features][1]
        rectified = self._rectify("exit", features)
        pooled = self._emit("exit_pool", op.GlobalPool(flatten=True), (rectified,), (1, channels))
        head = op.Linear(channels, self._stack.classes, True)
        logits = Part(LOGITS, stage, stage)
        self.shapes[logits] = (1, self._stack.classes)
        self._steps.append(Step("exit", head, (pooled,), logits))

    def operate(self, name: str, operation: str, x: Tensor, stride: int) -> Tensor:
        """One of the operations of a block."""
        filters = self.shapes[x][1]
        both = (stride, stride)
        if operation == "identity":
            if stride == 1:
                return x
            return self._convolve(name, self._rectify(name, x), filters, (1, 1), stride=both)
        if operation == "average_pool_3x3":
            # Padded apart: ExecuTorch's XNNPACK takes no average pooling that pads.
            _, _, height, width = self.shapes[x]
            padding = op.Pad((1, 1, 1, 1, 0, 0), 0.0)
            padded = self._emit(f"{name}_pad", padding, (x,), (1, filters, height + 2, width + 2))
            shape = (1, filters, -(-height // stride), -(-width // stride))
            return self._emit(name, op.AveragePool((3, 3), both), (padded,), shape)
        if operation == "max_pool_3x3":
            _, _, height, width = self.shapes[x]
            shape = (1, filters, -(-height // stride), -(-width // stride))
            pool = op.MaxPool((3, 3), both, (1, 1), (1, 1), False)
            return self._emit(name, pool, (x,), shape)
        x = self._rectify(name, x)
        if operation == "dilated_3x3":
            return self._convolve(name, x, filters, (3, 3), stride=both, dilation=_DILATION)
        if operation == "1x7_7x1":
            wide = self._convolve(f"{name}_1x7", x, filters, (1, 7), stride=(1, stride))
            wide = self._rectify(f"{name}_1x7", wide)
            return self._convolve(f"{name}_7x1", wide, filters, (7, 1), stride=(stride, 1))
        side = int(operation.removeprefix("separable_")[0])
        depthwise = self._convolution(
            f"{name}_depthwise", x, filters, (side, side), stride=both, groups=filters
        )
        return self._convolve(f"{name}_pointwise", depthwise, filters, (1, 1))

    def _convolve(
        self,
        name: str,
        x: Tensor,
        outputs: int,
        kernel: tuple[int, int],
        *,
        stride: tuple[int, int] = (1, 1),
        dilation: int = 1,
    ) -> Tensor:
        """A convolution and batch normalisation."""
        y = self._convolution(name, x, outputs, kernel, stride=stride, dilation=dilation)
        norm = op.BatchNorm(outputs, 2, _EPSILON, _MOMENTUM, True)
        return self._emit(f"{name}_norm", norm, (y,), self.shapes[y])

    def _convolution(
        self,
        name: str,
        x: Tensor,
        outputs: int,
        kernel: tuple[int, int],
        *,
        stride: tuple[int, int] = (1, 1),
        dilation: int = 1,
        groups: int = 1,
    ) -> Tensor:
        _, inputs, height, width = self.shapes[x]
        padding = (dilation * (kernel[0] // 2), dilation * (kernel[1] // 2))
        operator = op.Convolution(
            inputs, outputs, kernel, stride, padding, (dilation, dilation), groups, False
        )
        shape = (1, outputs, -(-height // stride[0]), -(-width // stride[1]))
        return self._emit(name, operator, (x,), shape)

    def _rectify(self, name: str, x: Tensor) -> Tensor:
        if x not in self._rectified:
            relu = op.Activation("ReLU")
            self._rectified[x] = self._emit(f"{name}_relu", relu, (x,), self.shapes[x])
        return self._rectified[x]

    def _emit(
        self, name: str, operator: op.Operator, inputs: tuple[Tensor, ...], shape: Shape
    ) -> Tensor:
        output = self.declare(shape)
        self._steps.append(Step(name, operator, inputs, output))
        return output
