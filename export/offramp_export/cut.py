"""One torch network with several exits, cut into stages along its graph."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast, final

import torch
from torch import Tensor, fx, nn

from offramp.errors import ExportError
from offramp_export._batches import free_batch, takes_batches
from offramp_export._first_line import first_line
from offramp_export._quiet import quiet
from offramp_export._tracing import find_untraceable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from offramp_export.network import Preprocess

__all__ = ["copy_graph", "cut", "make_functional"]

_TRIED = 3  # images, to see whether a stage takes a batch


def cut(
    network: nn.Module,
    image_size: tuple[int, int],
    *,
    preprocess: Preprocess,
    exits: Sequence[str] = (),
) -> tuple[nn.Module, ...]:
    """Cut a network into the stages between its exits; one exit makes one stage.

    A stage computes what its exit needs and no exit before it did; what later ones read of that is
    its carry. The network is read as the graph that ``torch.export`` makes of it.

    Args:
        network: Takes ``(1, 3, height, width)`` float32, normalised; returns ``(1, classes)``
            logits, or a tuple, list or dictionary of those of every exit, first to last.
        image_size: Height and width.
        preprocess: From the image as the app has it to what the network takes.
        exits: Names of submodules whose results are the logits, first to last, for a network that
            returns something else. Each must be called once.

    Returns:
        Stages for ``export``, in evaluation mode, which share the network's weights. They take any
        number of images; where a graph cannot be freed of the one it was read with, one by one.

    Raises:
        ExportError: ``torch.export`` refused the network, or its exits are not what they must be.
    """
    reader = _Exits(network, exits)
    modes = {module: module.training for module in network.modules()}
    try:
        reader.eval()
        with quiet(), torch.no_grad():
            exported = torch.export.export(reader, (torch.zeros(1, 3, *image_size),))
            module = exported.module(check_guards=False)
    except ExportError:
        raise
    except Exception as error:
        found = find_untraceable(reader, (torch.zeros(1, 3, *image_size),))
        where = "" if found is None else f" at {found.within('network')}"
        raise ExportError(
            f"torch.export refused {type(network).__name__}{where}: {first_line(error)}; take what "
            "depends on the values of the image out of forward, or write the stages yourself"
        ) from error
    finally:
        for part, training in modes.items():
            part.training = training
    graph = module.graph
    make_functional(graph)
    (image,) = (node for node in graph.nodes if node.op == "placeholder")
    returned = cast("tuple[fx.Node, ...]", graph.output_node().args[0])
    pixels = torch.rand(_TRIED, *image_size, 3, generator=torch.Generator().manual_seed(0)) * 255
    return _split(module, image, returned, preprocess, pixels)


@final
class _Exits(nn.Module):
    """The network, returning the logits of its exits as a tuple."""

    def __init__(self, network: nn.Module, exits: Sequence[str]) -> None:
        super().__init__()
        self.network = network
        self.exits = tuple(exits)
        known = dict(network.named_modules())
        for name in exits:
            if name not in known or not name:
                raise ExportError(
                    f"{type(network).__name__} has no submodule {name!r} to be an exit; expected "
                    f"one of {', '.join(list(known)[1:][:40])}"
                )

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        found: dict[str, list[Tensor]] = {name: [] for name in self.exits}
        hooks = [
            self.network.get_submodule(name).register_forward_hook(
                lambda _module, _inputs, result, name=name: found[name].append(result)
            )
            for name in self.exits
        ]
        try:
            result = self.network(image)
        finally:
            for hook in hooks:
                hook.remove()
        if not self.exits:
            return _as_tuple(result)
        for name, calls in found.items():
            if len(calls) != 1:
                raise ExportError(f"the exit {name!r} is called {len(calls)} times, expected once")
        return tuple(calls[0] for calls in found.values())


def _as_tuple(result: Any) -> tuple[Tensor, ...]:
    values = list(result.values()) if isinstance(result, dict) else result
    values = [values] if isinstance(values, Tensor) else values
    if not isinstance(values, list | tuple) or not all(isinstance(v, Tensor) for v in values):
        raise ExportError(
            f"the network returned {type(result).__name__}; expected logits, or a tuple, list or "
            "dictionary of the logits of every exit, or name the exits' submodules"
        )
    return tuple(values)


def make_functional(graph: fx.Graph) -> None:
    """Replace what writes into a tensor, which could be one of another stage.

    Whoever reads that tensor by its own name is given the new one by ``torch.export``; views of it
    that were made before are not.
    """
    places = {node: place for place, node in enumerate(graph.nodes)}
    for node in places:
        schema = getattr(node.target, "_schema", None)
        if schema is None or not schema.is_mutable:
            continue
        namespace, _, name = schema.name.partition("::")
        twin = getattr(getattr(torch.ops, namespace), name.removesuffix("_"), None)
        overload = getattr(twin, schema.overload_name or "default", None)
        memory = _memory(node)
        stale = any(
            places[view] < places[node] < places[user]
            for view in places
            if _memory(view) is memory
            for user in view.users
        )
        if not name.endswith("_") or overload is None or stale:
            raise ExportError(
                f"{schema.name} ({node.name}) writes into a tensor that is read again; use its "
                "form without the trailing underscore"
            )
        node.target = overload


def _memory(node: fx.Node) -> fx.Node:
    """The node that made the memory of a tensor which may be a view."""
    while node.op == "call_function":
        schema = getattr(node.target, "_schema", None)
        shares = schema is None or any(result.alias_info for result in schema.returns)
        if not shares or not node.args or not isinstance(node.args[0], fx.Node):
            break
        node = node.args[0]
    return node


def _split(
    module: nn.Module,
    image: fx.Node,
    exits: Sequence[fx.Node],
    preprocess: Preprocess,
    pixels: Tensor,
) -> tuple[nn.Module, ...]:
    order = {node: place for place, node in enumerate(image.graph.nodes)}
    owner: dict[fx.Node, int] = {}
    for stage, logits in enumerate(exits):
        if logits in owner:
            raise ExportError(
                f"exit {stage} needs nothing that exit {owner[logits]} did not compute already; "
                "give the exits from first to last, each once"
            )
        waiting = [logits]
        while waiting:
            node = waiting.pop()
            if node not in owner:
                owner[node] = stage
                waiting += node.all_input_nodes
    # Weights, and what is computed from them alone, are made where they are read.
    from_image = {image}
    for node in order:
        if any(source in from_image for source in node.all_input_nodes):
            from_image.add(node)
    if image not in owner:
        raise ExportError("the logits do not depend on the image; check what forward returns")
    stages = []
    carry: list[fx.Node] = [image]
    values: tuple[Tensor, ...] = (pixels,)
    for stage, logits in enumerate(exits):
        handed_on = [
            node
            for node in order
            if node in from_image
            and owner.get(node, len(exits)) <= stage
            and any(owner.get(user, -1) > stage for user in node.users)
        ]
        inside = [
            node
            for node in order
            if (owner.get(node) == stage if node in from_image else node in owner)
            and node not in carry
            and node.op in ("call_function", "get_attr")
        ]
        made = _Part(
            module, copy_graph(carry, inside, (logits, *handed_on)), None if stage else preprocess
        )
        values = made.try_batches(values)
        stages.append(made.eval())
        carry = handed_on
    return tuple(stages)


def copy_graph(
    inputs: Sequence[fx.Node], nodes: Sequence[fx.Node], outputs: Sequence[fx.Node]
) -> fx.Graph:
    """A graph of some nodes of another, given in its order.

    Raises:
        ExportError: A node reads one that is neither among them nor an input.
    """
    graph = fx.Graph()
    made: dict[fx.Node, fx.Node] = {
        node: graph.placeholder(f"carry_{place}") for place, node in enumerate(inputs)
    }
    for node in nodes:
        made[node] = graph.node_copy(node, lambda source: _lookup(made, source))
    graph.output(tuple(made[node] for node in outputs))
    graph.eliminate_dead_code()
    return graph


def _lookup(made: Mapping[fx.Node, fx.Node], node: fx.Node) -> fx.Node:
    if node not in made:
        raise ExportError(f"{node.name} is read before it is computed; write the stages yourself")
    return made[node]


@final
class _Part(nn.Module):
    def __init__(self, module: nn.Module, graph: fx.Graph, preprocess: Preprocess | None) -> None:
        super().__init__()
        self.preprocess = preprocess
        self.part = fx.GraphModule(module, graph)
        self.one_by_one = True

    def try_batches(self, carry: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Compute all images at once from now on, if that gives the same; the next carry."""
        alone = self.part
        graph = fx.Graph()
        graph.output(graph.graph_copy(alone.graph, {}))
        free_batch(graph)
        self.part = fx.GraphModule(alone, graph)
        if self.preprocess is not None:
            carry = (self.preprocess(carry[0]),)
        if takes_batches(self.part, carry):
            self.one_by_one = False
        else:
            self.part = alone
        with torch.no_grad():
            return self._run(carry)[1:]

    def forward(self, *carry: Tensor) -> tuple[Tensor, ...]:
        if self.preprocess is not None:
            carry = (self.preprocess(carry[0]),)
        return self._run(carry)

    def _run(self, carry: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        if carry[0].shape[0] == 1 or not self.one_by_one:
            return tuple(self.part(*carry))
        # The graph has the shapes of one image in it.
        singles = [
            self.part(*(value[place : place + 1] for value in carry))
            for place in range(carry[0].shape[0])
        ]
        return tuple(torch.cat(values) for values in zip(*singles, strict=True))
