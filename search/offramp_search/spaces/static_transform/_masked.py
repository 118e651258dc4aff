"""All architectures of a static transform in one network of shared weights."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor, nn
from torch.nn import functional

from offramp.errors import UnsupportedOperatorError
from offramp_search.spaces.static_transform._head import ExitHead
from offramp_search.spaces.static_transform._rules import DenseRule

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from offramp_export.network import Preprocess
    from offramp_search.spaces._base import Architecture
    from offramp_search.spaces.static_transform._graph import Graph
    from offramp_search.spaces.static_transform._labelling import Labelling

__all__ = ["MaskedNetwork"]


@final
class MaskedNetwork(nn.Module):
    """One copy of the base's weights that can answer as any architecture of the space.

    A weight is left out where it would let a stage read what a later stage computes, so one forward
    pass gives the logits of every exit, at about the cost of the base. In evaluation mode they are
    those of the network that ``build`` makes of the same architecture and weights.

    Args:
        graph: The base.
        preprocess: The normalisation of the image.
        label: Gives an architecture's labels, or raises ``ValueError`` if it is refused.
        stages: Stages of every architecture.
        seed: For the exits that the base has no weights for.
    """

    def __init__(
        self,
        graph: Graph,
        preprocess: Preprocess,
        label: Callable[[Architecture], Labelling],
        stages: int,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self._graph, self._label, self._stages = graph, label, stages
        self._labelling: Labelling | None = None
        self.preprocess = preprocess
        self.layers = nn.ModuleDict()
        self.exits = nn.ModuleDict()
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(seed)
            self._fill()
        # Not saved: it follows from the architecture. Buffers, so that they move with the network.
        for index, node in enumerate(graph.nodes):
            if isinstance(node.rule, DenseRule):
                self.register_buffer(f"_mask_{index}", torch.ones(1), persistent=False)
        for stage in range(stages):
            self.register_buffer(f"_exit_mask_{stage}", torch.ones(1), persistent=False)

    def _fill(self) -> None:
        graph = self._graph
        for node in graph.nodes:
            if node.rule is None:
                continue
            everything = tuple(range(node.shape[0]))
            reads = tuple(tuple(range(graph.nodes[o].shape[0])) for o in node.operands)
            operator = node.rule.at_once(everything, reads)
            module = nn.Identity() if operator is None else operator.module()
            state = node.rule.state()
            if state:
                module.load_state_dict(dict(state))
            self.layers[node.name] = module
        for stage in range(self._stages):
            for index in (graph.features, *graph.hosts[: None if stage < self._stages - 1 else 0]):
                classifier = nn.Linear(
                    graph.nodes[index].shape[0], graph.classes, graph.classifier.whole.bias
                )
                if index == graph.features:
                    classifier.load_state_dict(dict(graph.classifier.state()))
                self.exits[self._exit_name(stage, index)] = classifier

    def _exit_name(self, stage: int, index: int) -> str:
        return f"{stage}_{self._graph.nodes[index].name}"

    @property
    def num_classes(self) -> int:
        """Outputs of every exit."""
        return self._graph.classes

    def layer(self, index: int) -> nn.Module:
        """The module of a node of the base."""
        return self.layers[self._graph.nodes[index].name]

    def exit(self, stage: int, index: int) -> nn.Module:
        """The classifier of a stage's exit where it reads a certain node."""
        return self.exits[self._exit_name(stage, index)]

    def select(self, architecture: Architecture) -> None:
        """Answer as an architecture from here on.

        Raises:
            ValueError: The architecture is refused, or a decision is missing or unknown.
        """
        labelling = self._label(architecture)
        labels = labelling.labels
        device = next(self.parameters()).device
        stages = [torch.frombuffer(bytearray(part), dtype=torch.uint8) for part in labels]
        for index, node in enumerate(self._graph.nodes):
            if isinstance(node.rule, DenseRule):
                allowed = stages[index][:, None] >= stages[node.operands[0]][None]
                extra = (1,) * (self.layer(index).weight.ndim - 2)  # type: ignore[operator]
                mask = allowed.to(torch.float32).view(*allowed.shape, *extra)
                setattr(self, f"_mask_{index}", mask.to(device))
        for stage, index in enumerate(labelling.exits):
            mask = (stages[index] <= stage).to(torch.float32).to(device)
            setattr(self, f"_exit_mask_{stage}", mask)
        self._labelling = labelling

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Answer as the selected architecture.

        Args:
            image: ``(images, height, width, 3)`` float32, RGB, 0 to 255.

        Returns:
            The ``(images, classes)`` logits of every exit, first to last.

        Raises:
            RuntimeError: No architecture was selected.
        """
        exits = self._selected().exits
        return tuple(self._answers(self._values(image, exits), exits))

    def exit_features(self, image: Tensor) -> tuple[Tensor, ...]:
        """What the classifier of every exit reads, under the selected architecture.

        Args:
            image: ``(images, height, width, 3)`` float32, RGB, 0 to 255.

        Returns:
            Per exit ``(images, width)``: the channels that are there by then, in the base's order.

        Raises:
            RuntimeError: No architecture was selected.
        """
        exits = self._selected().exits
        values = self._values(image, exits)
        return tuple(values[index][:, self._read(stage)] for stage, index in enumerate(exits))

    def heads(self) -> tuple[ExitHead, ...]:
        """A copy of each head that the selected architecture has, with its classifiers.

        Raises:
            RuntimeError: No architecture was selected.
        """
        return tuple(copy.deepcopy(head) for head in self._shared_heads())

    def set_head(self, head: ExitHead) -> None:
        """Give a head of the selected architecture, and its classifiers, the weights of a copy.

        Args:
            head: One that ``heads`` gave under this architecture.

        Raises:
            RuntimeError: No architecture was selected.
            ValueError: The architecture that is selected has no such head.
        """
        for own in self._shared_heads():
            if (own.host, own.stages) == (head.host, head.stages):
                own.load_state_dict(head.state_dict())
                return
        raise ValueError(
            f"exits of stages {head.stages} share no head under the architecture that is selected; "
            "select the one that the head was copied from"
        )

    def frozen_reads(self, image: Tensor) -> tuple[Tensor, ...]:
        """What each exit reads of the layers that all architectures share.

        Args:
            image: ``(images, height, width, 3)`` float32, RGB, 0 to 255.

        Returns:
            Per exit ``(images, *map_shape)``, what its head reads; the same tensor for all exits of
            one head. Where it has no head, ``exit_features``.

        Raises:
            RuntimeError: No architecture was selected.
        """
        exits, graph = self._selected().exits, self._graph
        read = [
            graph.nodes[graph.heads[index]].operands[0] if index in graph.heads else index
            for index in exits
        ]
        values = self._values(image, read)
        return tuple(
            values[index][:, self._read(stage)] if index == exits[stage] else values[index]
            for stage, index in enumerate(read)
        )

    def exit_widths(self, *, maps: bool) -> dict[str, int]:
        """Every place an exit of any architecture may read, and the channels there.

        Args:
            maps: Whether the map before the pooling is asked for, not what the classifier reads.

        Raises:
            UnsupportedOperatorError: Maps are asked for and there are none.
        """
        return {
            self._exit_name(stage, index): self._graph.nodes[self._place(index, maps)].shape[0]
            for stage in range(self._stages)
            for index in (self._graph.features, *self._graph.hosts)
            if self._exit_name(stage, index) in self.exits
        }

    def exit_reads(self, image: Tensor, *, maps: bool) -> tuple[tuple[str, Tensor], ...]:
        """For each exit of the selected architecture the place it reads, and what it reads there.

        Args:
            image: ``(images, height, width, 3)`` float32, RGB, 0 to 255.
            maps: Whether the map before the pooling is asked for, not what the classifier reads.

        Returns:
            Per exit its place and ``(images, channels)``, or ``(images, channels, rows, columns)``
            of maps: all channels of the place, zero where they are not there by then.

        Raises:
            RuntimeError: No architecture was selected.
            UnsupportedOperatorError: Maps are asked for and there are none.
        """
        labelling = self._selected()
        values = self._values(image, labelling.exits)
        found = []
        for stage, index in enumerate(labelling.exits):
            place = self._place(index, maps)
            value = values[place]
            there = torch.tensor([label <= stage for label in labelling.labels[place]])
            mask = there.to(value).view(1, -1, *(1,) * (value.ndim - 2))
            found.append((self._exit_name(stage, index), value * mask))
        return tuple(found)

    def _place(self, index: int, maps: bool) -> int:
        """A node that exits read, or the last map of the base on the way to it."""
        nodes = self._graph.nodes
        if maps:
            index = self._graph.maps.get(index, index)
        while maps:
            shape = nodes[index].shape
            if len(shape) == 3 and max(shape[1:]) > 1 and nodes[index].operands:
                break
            if not nodes[index].operands:
                raise UnsupportedOperatorError(
                    "There is no map before the classifier; choose rotation or jigsaw, which read "
                    "pooled features.",
                    operator=nodes[index].name,
                    module_path=nodes[index].path,
                )
            index = nodes[index].operands[0]
        return index

    def set_exit(self, stage: int, weight: Tensor, bias: Tensor) -> None:
        """Give the classifier of an exit of the selected architecture other weights.

        Args:
            stage: The exit.
            weight: ``(classes, width)``, for the channels that ``exit_features`` gives.
            bias: ``(classes,)``; dropped where the base's own classifier has none.

        Raises:
            RuntimeError: No architecture was selected.
        """
        classifier = self.exit(stage, self._selected().exits[stage])
        assert isinstance(classifier, nn.Linear)
        with torch.no_grad():
            classifier.weight[:, self._read(stage)] = weight.to(classifier.weight)
            if classifier.bias is not None:
                classifier.bias.copy_(bias)

    def _shared_heads(self) -> Iterator[ExitHead]:
        exits, graph = self._selected().exits, self._graph
        for host in sorted(graph.heads.keys() & set(exits)):
            convolution, way = graph.heads[host], graph.ways[host]
            stages = tuple(stage for stage, index in enumerate(exits) if index == host)
            yield ExitHead(
                host=host,
                stages=stages,
                map_shape=graph.nodes[graph.nodes[convolution].operands[0]].shape,
                convolution=self.layer(convolution),
                mask=getattr(self, f"_mask_{convolution}"),
                layers=[self.layer(index) for index in way[way.index(convolution) + 1 :]],
                classifiers=[self.exit(stage, host) for stage in stages],
                reads=[getattr(self, f"_exit_mask_{stage}") for stage in stages],
            )

    def _selected(self) -> Labelling:
        if self._labelling is None:
            raise RuntimeError("No architecture is selected; call select(architecture) first.")
        return self._labelling

    def _read(self, stage: int) -> Tensor:
        """Whether each channel that an exit hangs on is there by then."""
        mask: Tensor = getattr(self, f"_exit_mask_{stage}")
        return mask > 0

    def _values(self, image: Tensor, wanted: Iterable[int]) -> list[Tensor]:
        values: list[Tensor] = []
        nodes, base_size = self._graph.nodes, self._graph.base_size
        read = {step for index in wanted for step in self._graph.way_to(index)}
        for index, node in enumerate(nodes):
            if node.rule is None:
                values.append(self.preprocess(image))
            elif index >= base_size and index not in read:
                values.append(image)  # on the way to a place that nobody wants: never read
            else:
                values.append(self._run(index, [values[operand] for operand in node.operands]))
        return values

    def _run(self, index: int, operands: list[Tensor]) -> Tensor:
        layer = self.layer(index)
        if not isinstance(self._graph.nodes[index].rule, DenseRule):
            result: Tensor = layer(*operands)
            return result
        mask = getattr(self, f"_mask_{index}")
        if isinstance(layer, nn.Conv2d):
            output: Tensor = layer._conv_forward(operands[0], layer.weight * mask, layer.bias)
            return output
        assert isinstance(layer, nn.Linear)
        return functional.linear(operands[0], layer.weight * mask, layer.bias)

    def _answers(self, values: list[Tensor], exits: tuple[int, ...]) -> Iterator[Tensor]:
        for stage, index in enumerate(exits):
            classifier = self.exit(stage, index)
            assert isinstance(classifier, nn.Linear)
            mask = getattr(self, f"_exit_mask_{stage}")
            yield functional.linear(values[index], classifier.weight * mask, classifier.bias)
