"""In which order the channels of every tensor are stored, so that nothing is gathered at run time.

A channel shuffle (a view, a transpose, a view) followed by a split sends every other channel one
way. Nothing says that channels are stored in the order they are numbered in, though: each layer
writes its channels sorted by where they will go, its weights are reordered once, and what follows
moves whole ranges. A shuffle itself is then no operator at all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from offramp_search.spaces.static_transform._rules import ChannelSliceRule, ShuffleRule

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from offramp_search.spaces.static_transform._graph import Graph
    from offramp_search.spaces.static_transform._rules import Channels, Rule

__all__ = ["find_fates", "spread", "storage_orders"]

Fates = tuple[tuple[int, ...], ...]
"""For each channel of a node the slices that it passes through, in order."""


def find_fates(graph: Graph) -> tuple[Fates, ...]:
    """For each node the fate of each channel; none has one where the base slices no channels."""
    nodes = graph.nodes
    fates: list[list[set[int]]] = [[set() for _ in range(node.shape[0])] for node in nodes]
    if any(isinstance(node.rule, ChannelSliceRule) for node in nodes):
        for index in range(len(nodes) - 1, -1, -1):
            node = nodes[index]
            if node.rule is None:
                continue
            for position, operand in enumerate(node.operands):
                for output, source in _moves(node.rule, position, node.shape[0]):
                    fates[operand][source] |= fates[index][output]
                    if isinstance(node.rule, ChannelSliceRule):
                        fates[operand][source].add(index)
    return tuple(tuple(tuple(sorted(one)) for one in part) for part in fates)


def storage_orders(graph: Graph) -> tuple[Channels | None, ...]:
    """For each node its channels in the order they are stored; ``None`` if that is their own.

    A layer sorts its outputs by fate. Whatever moves channels keeps the order of its operands, one
    after the other; what can only be computed in groups of several inputs keeps its own.
    """
    fates = find_fates(graph)
    orders: list[Channels | None] = []
    for index, node in enumerate(graph.nodes):
        rule, natural = node.rule, tuple(range(node.shape[0]))
        order: Channels | None = None
        if rule is not None and rule.decides:
            own = fates[index]
            order = tuple(sorted(natural, key=own.__getitem__))
        elif isinstance(rule, ShuffleRule) or any(orders[operand] for operand in node.operands):
            assert rule is not None
            order = _follow(rule, node.operands, node.shape[0], orders)
        orders.append(None if order == natural else order)
    return tuple(orders)


def spread(fates: Fates) -> Channels:
    """Channels in an order whose every beginning holds the same share of each fate.

    Cut in this order, every part of a layer has something for each of its readers. Where all fates
    are equal it is the channels' own.
    """
    sizes: dict[tuple[int, ...], int] = {}
    ranks = []
    for fate in fates:
        ranks.append(sizes.get(fate, 0))
        sizes[fate] = ranks[-1] + 1
    return tuple(
        sorted(
            range(len(fates)),
            key=lambda channel: ((2 * ranks[channel] + 1) / sizes[fates[channel]], channel),
        )
    )


def _moves(rule: Rule, position: int, outputs: int) -> Iterator[tuple[int, int]]:
    """The output channels that are one channel of an operand, and which."""
    for output in range(outputs):
        wanted = rule.wanted(position, (output,))
        if wanted is not None and len(wanted) == 1:
            yield output, wanted[0]


def _follow(
    rule: Rule, operands: Sequence[int], outputs: int, orders: Sequence[Channels | None]
) -> Channels | None:
    """Output channels in the order of the operands; ``None`` if they are not theirs one by one."""
    places: dict[int, tuple[int, int]] = {}
    for position, operand in enumerate(operands):
        order = orders[operand]
        rank = None if order is None else {channel: at for at, channel in enumerate(order)}
        for output, source in _moves(rule, position, outputs):
            places.setdefault(output, (position, source if rank is None else rank[source]))
    if not places:
        return None
    first, last = min(places), max(places)
    for output in range(outputs):
        if output not in places:
            if first < output < last:
                return None
            # Constant channels stay before, or after, all others.
            places[output] = (-1, output) if output < first else (len(operands), output)
    return tuple(sorted(range(outputs), key=lambda output: (places[output], output)))
