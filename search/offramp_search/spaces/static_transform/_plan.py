"""From labels to programs: which steps each stage runs, and what it hands to the next.

A tensor is named by a node of the base and a range of labels: ``Part(n, 0, 1)`` holds the channels
of node n that stages 0 and 1 compute, by stage. A range is always as narrow as its content, so one
tensor has one name. Every stage computes its own part of every node it has channels of, in the
order of the base; a part that reaches over several stages is a concatenation, made once, by the
first stage that reads it. Where carries are summed, a convolution that is the only one to read such
a part takes the stages' parts one by one instead, together with the normalisation that follows it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec

from offramp_search.spaces import _operators as op
from offramp_search.spaces._steps import LOGITS, RAW_IMAGE, Part, Selected, Step, hand_on
from offramp_search.spaces.static_transform import _labels
from offramp_search.spaces.static_transform._rules import BatchNormRule, DenseRule

if TYPE_CHECKING:
    from offramp_search.spaces._steps import Channels, StagePlan, Tensor
    from offramp_search.spaces.static_transform._graph import Graph
    from offramp_search.spaces.static_transform._labelling import Labelling

__all__ = ["plan"]


def plan(graph: Graph, labelling: Labelling, *, summed: bool = False) -> tuple[StagePlan, ...]:
    """Plan all stages of a network.

    Args:
        graph: The base.
        labelling: The stage of every channel.
        summed: Whether convolutions sum over what stages hand on instead of joining it.
    """
    planner = _Planner(graph, labelling, summed=summed)
    stages = [planner.stage(stage) for stage in range(len(labelling.exits))]
    return hand_on(stages)


class _Planner:
    """Plans stage after stage and remembers which tensors there are."""

    def __init__(self, graph: Graph, labelling: Labelling, *, summed: bool) -> None:
        self._graph = graph
        self._summed = summed
        self._labels = labelling.labels
        self._exits = labelling.exits
        self._steps: list[Step] = []
        self._stage = 0
        # Where a node's part is another tensor under another name, or (None) nothing but zeros.
        self._same: dict[Tensor, Tensor | None] = {}
        self.born: dict[Tensor, int] = {}
        # Sums that the normalisation after them will take in.
        self._open: dict[int, Step] = {}

    def stage(self, stage: int) -> list[Step]:
        """Plan the next stage."""
        self._steps, self._stage = [], stage
        for index, labels in enumerate(self._labels):
            if stage in labels:
                self._compute(index, Part(index, stage, stage))
        self._exit()
        return self._steps

    def _computed(self, index: int, stage: int) -> Channels:
        """The channels of a node that one stage computes, as they are stored."""
        return _labels.channels_of(self._labels[index], stage, self._graph.orders[index])

    def _stored(self, index: int, stage: int) -> Channels:
        """The channels of a node that there are by the end of a stage, as they are stored."""
        return _labels.stored_by(self._labels[index], stage, self._graph.orders[index])

    def _emit(self, step: Step) -> None:
        self._steps.append(step)
        self.born[step.output] = self._stage

    def _compute(self, index: int, output: Part) -> None:
        node = self._graph.nodes[index]
        if node.rule is None:
            self._emit(Step("preprocess", op.Normalise(), (RAW_IMAGE,), output))
            return
        channels = self._computed(index, self._stage)
        if node.operands and node.operands[0] in self._open:
            self._close(index, output)
            return
        parts = self._parts(index)
        if len(parts) > 1:
            self._sum(index, output, parts)
            return
        inputs: list[Tensor] = []
        reads: list[Channels] = []
        for position, operand in enumerate(node.operands):
            tensor: Tensor | None = None
            wanted = node.rule.wanted(position, channels)
            if wanted is None:
                tensor = self._all(operand, self._stage)
                wanted = self._stored(operand, self._stage)
            elif wanted:
                tensor = self._some(operand, wanted)
            reads.append(wanted)
            if tensor is not None:
                inputs.append(tensor)
        operator = node.rule.piece(channels, tuple(reads))
        alone = len(inputs) < 2 and isinstance(operator, op.Add | op.Multiply)
        if operator is None or alone or not inputs:
            self._same[output] = inputs[0] if inputs else None
        else:
            self._emit(Step(node.name, operator, tuple(inputs), output, channels, tuple(reads)))

    def _parts(self, index: int) -> list[int]:
        """The stages whose parts a convolution sums over; none if it reads one tensor."""
        node = self._graph.nodes[index]
        rule = node.rule
        if not (
            self._summed and isinstance(rule, DenseRule) and isinstance(rule.whole, op.Convolution)
        ):
            return []
        labels = self._labels[node.operands[0]]
        there = [stage for stage in range(self._stage + 1) if stage in labels]
        whole = Part(node.operands[0], there[0], there[-1])
        return [] if whole in self.born else there

    def _sum(self, index: int, output: Part, stages: list[int]) -> None:
        node = self._graph.nodes[index]
        assert isinstance(node.rule, DenseRule)
        channels, read = self._computed(index, self._stage), node.operands[0]
        reads = tuple(self._computed(read, stage) for stage in stages)
        whole = node.rule.piece(channels, (self._stored(read, self._stage),))
        assert isinstance(whole, op.Convolution)
        operator = op.SummedConvolution(
            tuple(map(len, reads)),
            whole.outputs,
            whole.kernel,
            whole.stride,
            whole.padding,
            whole.dilation,
            whole.bias,
        )
        inputs = tuple(self._resolve(Part(read, stage, stage)) for stage in stages)
        step = Step(node.name, operator, inputs, output, channels, reads)
        if self._is_normalised(index):
            self._open[index] = step
        else:
            self._emit(step)

    def _is_normalised(self, index: int) -> bool:
        """Whether all that reads a node is one normalisation, of the same channels."""
        nodes, last = self._graph.nodes, len(self._exits)
        readers = [
            reader
            for reader, node in enumerate(nodes)
            if index in node.operands and min(self._labels[reader]) < last
        ]
        return (
            len(readers) == 1
            and isinstance(nodes[readers[0]].rule, BatchNormRule)
            and self._labels[readers[0]] == self._labels[index]
            and self._graph.orders[readers[0]] == self._graph.orders[index]
            and index not in self._exits
        )

    def _close(self, index: int, output: Part) -> None:
        """The normalisation of a sum, as one step with it."""
        node = self._graph.nodes[index]
        step = self._open.pop(node.operands[0])
        assert isinstance(node.rule, BatchNormRule)
        assert isinstance(step.operator, op.SummedConvolution)
        norm = node.rule.piece(step.channels, (step.channels,))
        assert isinstance(norm, op.BatchNorm)
        operator = msgspec.structs.replace(step.operator, norm=norm)
        self._emit(replace(step, operator=operator, output=output))

    def _exit(self) -> None:
        features = self._exits[self._stage]
        read = self._stored(features, self._stage)
        tensor = self._all(features, self._stage)
        whole = self._graph.classifier.whole
        head = op.Linear(len(read), whole.outputs, whole.bias)
        output = Part(LOGITS, self._stage, self._stage)
        rows = tuple(range(whole.outputs))
        self._emit(Step("exit", head, (tensor,), output, rows, (read,)))

    def _all(self, index: int, last: int) -> Tensor:
        """All channels of a node that there are by the end of a stage, as one tensor."""
        there = [stage for stage in range(last + 1) if stage in self._labels[index]]
        if len(there) == 1:
            return self._resolve(Part(index, there[0], there[0]))
        whole = Part(index, there[0], there[-1])
        if whole in self.born:
            return whole
        # Begin with the longest part that somebody has already made.
        made = next(
            (
                n
                for n in range(len(there) - 1, 1, -1)
                if whole._replace(last=there[n - 1]) in self.born
            ),
            1,
        )
        parts = [whole._replace(last=there[made - 1])]
        parts += [Part(index, stage, stage) for stage in there[made:]]
        inputs = tuple(self._resolve(part) for part in parts)
        name = f"{self._graph.nodes[index].name}_joined"
        self._emit(Step(name, op.Concatenate(), inputs, whole))
        return whole

    def _resolve(self, part: Tensor) -> Tensor:
        while part in self._same:
            same = self._same[part]
            if same is None:
                raise AssertionError("zeros are read by sums only; the graph was checked for that")
            part = same
        return part

    def _some(self, index: int, wanted: Channels) -> Tensor | None:
        """Channels of a node in the order wanted, or ``None`` if they are zeros."""
        labels = self._labels[index]
        if wanted == self._computed(index, self._stage):
            part = Part(index, self._stage, self._stage)
            return None if self._zeros(part) else self._resolve(part)
        present = sorted({labels[channel] for channel in wanted})
        part = Part(index, present[0], present[-1])
        if len(present) == 1:
            stored = self._computed(index, present[0])
            if stored == wanted:
                return None if self._zeros(part) else self._resolve(part)
            source: Tensor = self._resolve(part)
        else:
            stored = self._stored(index, present[-1])
            source = self._all(index, present[-1])
            if stored == wanted:
                return source
        selected = Selected(index, wanted)
        if selected not in self.born:
            at = {channel: position for position, channel in enumerate(stored)}
            ranges = _ranges([at[channel] for channel in wanted])
            name = f"{self._graph.nodes[index].name}_selected"
            self._emit(Step(name, op.Select(ranges), (source,), selected))
        return selected

    def _zeros(self, part: Tensor) -> bool:
        while part in self._same:
            same = self._same[part]
            if same is None:
                return True
            part = same
        return False


def _ranges(positions: list[int]) -> tuple[tuple[int, int], ...]:
    """Runs of neighbours, as ``(start, length)``."""
    ranges: list[tuple[int, int]] = []
    for position in positions:
        if ranges and position == sum(ranges[-1]):
            ranges[-1] = (ranges[-1][0], ranges[-1][1] + 1)
        else:
            ranges.append((position, 1))
    return tuple(ranges)
