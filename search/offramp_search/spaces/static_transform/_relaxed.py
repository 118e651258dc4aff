"""All architectures of a static transform at once, each as far as it is probable."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import torch
from torch import Tensor, nn

from offramp_search.spaces.static_transform._rules import DenseRule

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from offramp_search.spaces.static_transform._graph import Graph, Node
    from offramp_search.spaces.static_transform._masked import MaskedNetwork
    from offramp_search.spaces.static_transform._units import Unit

__all__ = ["RelaxedTransform"]


@final
class RelaxedTransform(nn.Module):
    """A network whose masks are mixtures, weighed by the probability of every choice.

    The label of a channel, which is a number in an architecture, is a distribution here, kept as
    the probability that the channel is there by the end of each stage. A decision mixes those of
    its choices; every other operator moves them, and what waits for several channels is there when
    the least probable of them is. A weight counts by the probability that its input is there no
    later than its output, and an exit hangs on a map by the probability that this is the last map
    with a channel by then. Under a distribution that is sure of one architecture these are the
    masks of that architecture, but for one thing: channels are not moved to the stage that first
    reads them.

    Args:
        masked: Holds the weights.
        graph: The base.
        units: Its decisions.
        stages: Stages of every architecture.
    """

    def __init__(
        self, masked: MaskedNetwork, graph: Graph, units: Sequence[Unit], stages: int
    ) -> None:
        super().__init__()
        self.masked = masked
        self._graph, self._stages = graph, stages
        self._units = {unit.name: unit.nodes for unit in units}
        self._sources: dict[int, list[Tensor]] = {
            index: _sources(node, graph)
            for index, node in enumerate(graph.nodes)
            if node.rule is not None and not node.rule.decides
        }
        self._there: list[Tensor] = []
        for number, unit in enumerate(units):
            labels = torch.tensor([list(part) for part in unit.labels.values()])
            there = (labels[:, :, None] <= torch.arange(stages)).to(torch.float32)
            self.register_buffer(f"_choices_{number}", there, persistent=False)

    def relax(self, probabilities: Mapping[str, Tensor]) -> None:
        """Mix the architectures from here on.

        Args:
            probabilities: For every decision ``(choices,)``; gradients flow back to them.
        """
        decided: dict[int, Tensor] = {}
        for number, (name, nodes) in enumerate(self._units.items()):
            there = torch.einsum(
                "k,kcs->cs", probabilities[name], getattr(self, f"_choices_{number}")
            )
            decided.update(dict.fromkeys(nodes, there))
        self._there = []
        for index, node in enumerate(self._graph.nodes):
            if node.rule is None:
                some = next(iter(decided.values()))
                self._there.append(some.new_ones(node.shape[0], self._stages))
                continue
            operands = [self._there[operand] for operand in node.operands]
            if isinstance(node.rule, DenseRule):
                # No earlier than there is anything to read.
                first = operands[0].amax(0, keepdim=True)
                self._there.append(torch.minimum(decided[index], first))
                self._mask(index, operands[0])
            else:
                moved = [
                    torch.cat([there, there.new_ones(1, self._stages)])[source].amin(1)
                    for there, source in zip(operands, self._sources[index], strict=True)
                ]
                self._there.append(torch.stack(moved).amin(0))

    def exit_widths(self, *, maps: bool) -> Mapping[str, int]:
        """As ``MaskedNetwork.exit_widths``."""
        return self.masked.exit_widths(maps=maps)

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
        if not self._there:
            raise RuntimeError("No distribution is set; call relax(probabilities) first.")
        graph, masked = self._graph, self.masked
        places = (graph.features, *reversed(graph.hosts))
        values = masked._values(image, places)
        exits = []
        for stage in range(self._stages):
            mixture, left = [], values[0].new_ones(())
            for index in places if stage < self._stages - 1 else (graph.features,):
                last = index == graph.hosts[0] if graph.hosts else True
                here = (
                    left
                    if last or stage == self._stages - 1
                    else left * (self._there[index][:, stage].amax())
                )
                left = left - here
                node = masked._place(index, maps)
                shape = (1, -1, *(1,) * (values[node].ndim - 2))
                read = values[node] * self._there[node][:, stage].view(shape)
                mixture.append((masked._exit_name(stage, index), here, read))
            exits.append(tuple(mixture))
        return tuple(exits)

    def _mask(self, index: int, inputs: Tensor) -> None:
        """The probability that each input is there no later than each output."""
        outputs = self._there[index]
        at = torch.diff(outputs, dim=1, prepend=outputs.new_zeros(len(outputs), 1))
        # What is in no stage is computed by nobody, and read by nobody.
        mixed = at @ inputs.T
        extra = (1,) * (self.masked.layer(index).weight.ndim - 2)  # type: ignore[operator]
        setattr(self.masked, f"_mask_{index}", mixed.view(*mixed.shape, *extra))


def _sources(node: Node, graph: Graph) -> list[Tensor]:
    """For each operand ``(outputs, most)``: the channels that every output channel waits for.

    Found by asking the rule: with one input channel labelled later than all others, the outputs
    labelled later are those that read it. One past the last channel stands for none.
    """
    assert node.rule is not None
    sizes = [graph.nodes[operand].shape[0] for operand in node.operands]
    found = []
    for operand, size in enumerate(sizes):
        reads: list[list[int]] = [[] for _ in range(node.shape[0])]
        for channel in range(size):
            probe = [bytearray(other) for other in sizes]
            probe[operand][channel] = 1
            for output, label in enumerate(node.rule.labels(tuple(map(bytes, probe)), b"")):
                if label:
                    reads[output].append(channel)
        most = max(1, *map(len, reads))
        found.append(torch.tensor([part + [size] * (most - len(part)) for part in reads]))
    return found
