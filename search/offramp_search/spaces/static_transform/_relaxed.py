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

_LEAST = 1e-6
"""Of the probabilities that anything hangs at a place, so that no share is divided by nothing."""


@final
class RelaxedTransform(nn.Module):
    """A network whose masks are mixtures, weighed by the probability of every choice.

    The label of a channel, which is a number in an architecture, is a distribution here, kept as
    the probability that the channel is there by the end of each stage. A decision mixes those of
    its choices; every other operator moves them, and what waits for several channels is there when
    the least probable of them is. A weight counts by the probability that its input is there no
    later than its output, and an exit hangs on a map by the probability that this is the last map
    with a channel by then. Under a distribution that is sure of one architecture these are the
    masks of that architecture, but for two things: channels are not moved to the stage that first
    reads them, and where the channels of an exit's head cannot be shared out equally, the channel
    between two shares counts in part.

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
        self._hangs: list[dict[int, Tensor]] = []
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
        graph = self._graph
        for index in range(graph.base_size):
            self._follow(index, decided)
        heads = self._hang()
        for index in range(graph.base_size, len(graph.nodes)):
            self._follow(index, heads)

    def _follow(self, index: int, decided: Mapping[int, Tensor]) -> None:
        """When the channels of a node are there, and the mask of its weights."""
        node = self._graph.nodes[index]
        if node.rule is None:
            some = next(iter(decided.values()))
            self._there.append(some.new_ones(node.shape[0], self._stages))
            return
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
        masked = self.masked
        values = masked._values(image, (self._graph.features, *self._graph.hosts))
        exits = []
        for stage, hangs in enumerate(self._hangs):
            mixture = []
            for index, here in hangs.items():
                node = masked._place(index, maps)
                shape = (1, -1, *(1,) * (values[node].ndim - 2))
                read = values[node] * self._there[node][:, stage].view(shape)
                mixture.append((masked._exit_name(stage, index), here, read))
            exits.append(tuple(mixture))
        return tuple(exits)

    def _hang(self) -> dict[int, Tensor]:
        """How probably each early exit hangs at each place, and when each head's channels come.

        A stage that is sure to hang at a host has an equal share of the head's channels with the
        others that are; one that may hang there has the less the less probable it is.

        Returns:
            For the convolution of every head ``(channels, stages)``.
        """
        graph = self._graph
        places = (graph.features, *reversed(graph.hosts))
        one = self._there[0].new_ones(())
        self._hangs = []
        for stage in range(self._stages - 1):
            left, hangs = one, {}
            for place in places:
                some = self._there[graph.maps.get(place, place)][:, stage].amax()
                hangs[place] = left if place == places[-1] else left * some
                left = left - hangs[place]
            self._hangs.append(hangs)
        self._hangs.append({graph.features: one})
        heads = {}
        for host, index in graph.heads.items():
            # The last stage's exit, whose share is zero, is the base's own.
            shares = torch.stack([hangs.get(host, 0 * one) for hangs in self._hangs])
            channels = graph.nodes[index].shape[0]
            ends = channels * shares.cumsum(0) / shares.sum().clamp_min(_LEAST)
            starts = torch.arange(channels).to(ends)
            heads[index] = (ends[None] - starts[:, None]).clamp(0, 1)
        return heads

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
