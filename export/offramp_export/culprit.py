"""Where a program departs from torch first: the stage, the layer and the operator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch
from torch import Tensor, fx, nn

from offramp.errors import ConversionError, ExportError
from offramp_export._edges import prepare_stages
from offramp_export._first_line import first_line
from offramp_export._quiet import quiet
from offramp_export._run import run_program
from offramp_export._tracing import find_untraceable
from offramp_export.cut import copy_graph, make_functional
from offramp_export.network import Preprocess
from offramp_export.parity import compare

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    from offramp_export.targets import Target

__all__ = ["Culprit", "Search", "find_culprit", "is_row"]

_FEWEST_RANK = 2


@final
@dataclass(frozen=True, slots=True)
class Culprit:
    """The first operator whose result departs.

    Attributes:
        stage: Its stage.
        layer: The submodule that calls it, by its name in the stage; empty for the stage itself. Of
            a network that was cut along its graph, the last submodule with weights up to there.
        operator: What torch calls it, such as ``aten.conv2d.default``.
        difference: The largest absolute difference of its result, as a fraction of the largest
            absolute value in torch.
        before: The largest such difference among the results it is computed from that were tried;
            0 if none was.
    """

    stage: int
    layer: str
    operator: str
    difference: float
    before: float


def find_culprit(
    stages: Sequence[nn.Module],
    target: Target,
    images: NDArray[np.uint8],
    *,
    exit: int,
    tolerance: float,
    calibration_images: NDArray[np.uint8] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Culprit | None:
    """Bisect a network for the first operator that a target's program computes otherwise.

    The network is converted again and again as one stage, each time up to another operator. A
    result that agrees clears everything it is computed from; one that departs leaves nothing else
    under suspicion. On a chain of operators that takes as many conversions as their number has
    binary digits. It finds the first one if what departs once does not come back.

    Args:
        stages: As for ``export``.
        target: The target whose program departs.
        images: ``(images, height, width, 3)`` uint8; a few will do.
        exit: The first exit that departs.
        tolerance: The largest difference that is still agreement, as a fraction of the largest
            value of each result.
        calibration_images: For targets that quantise.
        progress: Called with (conversions done, conversions in all, as far as can be said).

    Returns:
        ``None`` if the exit's logits stay within the tolerance when the network is converted as one
        stage; what departs is then how one stage's program hands its carry to the next.

    Raises:
        ExportError: ``torch.export`` or the target refused the network.
    """
    alone = target.for_stage(exit)
    search = Search(prepare_stages(stages), alone, images, exit, calibration_images)
    suspects = search.candidates(search.logits)
    if not suspects:
        raise ExportError(f"the logits of exit {exit} do not depend on the image")
    worst, done = search.logits, 1
    found, before = search.difference(worst), 0.0
    # Not a number is not agreement.
    if found <= tolerance:
        return None
    while len(suspects) > 1:
        if progress is not None:
            progress(done, done + (len(suspects) - 1).bit_length())
        known = frozenset(suspects)
        pasts = {node: known.intersection(search.candidates(node)) for node in suspects}
        middle = min(
            (node for node in suspects if node is not worst),
            key=lambda node: abs(2 * len(pasts[node]) - len(known)),
        )
        here, done = search.difference(middle), done + 1
        if here <= tolerance:
            before = max(before, here)
            suspects = [node for node in suspects if node not in pasts[middle]]
        else:
            worst, found = middle, here
            suspects = [node for node in suspects if node in pasts[middle]]
    if progress is not None:
        progress(done, done)
    stage, layer = search.place(worst)
    return Culprit(stage, layer, str(worst.target), found, before)


@final
class Search:
    """The graph of all stages in a row, and the program of any part of it."""

    def __init__(
        self,
        stages: Sequence[nn.Module],
        target: Target,
        images: NDArray[np.uint8],
        exit: int,
        calibration_images: NDArray[np.uint8] | None,
    ) -> None:
        self.target, self.images, self.calibration_images = target, images, calibration_images
        self.shape = (1, *images.shape[1:])
        self.chain = _Chain(stages).eval()
        try:
            with quiet(), torch.no_grad():
                exported = torch.export.export(self.chain, (torch.zeros(self.shape),))
                self.module = exported.module(check_guards=False)
        except Exception as error:
            raise self._untraceable(error) from error
        graph = self.module.graph
        make_functional(graph)
        self.order = {node: place for place, node in enumerate(graph.nodes)}
        (image,) = (node for node in self.order if node.op == "placeholder")
        self.logits: fx.Node = graph.output_node().args[0][exit]  # type: ignore[index, assignment]
        self.root, self.preprocess = self._normalised(image)
        self.depends = self._after(self.root)

    def candidates(self, node: fx.Node) -> list[fx.Node]:
        """What a result is computed from, itself included: those with one row, in order."""
        return [
            other
            for other in self._ordered(self._before(node))
            if other in self.depends and is_row(other)
        ]

    def _untraceable(self, error: Exception) -> ConversionError:
        message = f"torch.export refused the stages in a row: {first_line(error)}"
        found = find_untraceable(self.chain, (torch.zeros(self.shape),))
        if found is None or not found.layer.startswith("stages."):
            return ConversionError(message)
        stage, _, layer = found.layer.removeprefix("stages.").partition(".")
        return ConversionError(message, stage=int(stage), layer=layer, operator=found.operator)

    def refuses(self, node: fx.Node) -> bool:
        """Whether the target refuses the network up to this result."""
        try:
            self.target.convert([self._prefix(node)], [[self.shape]], self.calibration_images)
        except ConversionError:
            return True
        return False

    def _prefix(self, node: fx.Node) -> nn.Module:
        inside = [other for other in self._ordered(self._before(node)) if other is not self.root]
        graph = copy_graph([self.root], inside, [node])
        return _Prefix(self.preprocess, fx.GraphModule(self.module, graph)).eval()

    def difference(self, node: fx.Node) -> float:
        """How far the program of the network up to this result is from torch."""
        prefix = self._prefix(node)
        program = self.target.convert([prefix], [[self.shape]], self.calibration_images)
        got = run_program(self.target, program, self.images)
        with torch.no_grad():
            rows = [
                prefix(torch.from_numpy(image[None].astype(np.float32)))[0].numpy()
                for image in self.images
            ]
        expected = np.stack(rows, axis=1)
        if got.shape != expected.shape:
            raise ExportError(
                f"the program of the network up to {node.name} answers with {got.shape} values, "
                f"expected {expected.shape}"
            )
        parity = compare("prefix", got, expected, tolerance=float("inf"))
        return parity.exits[0].difference

    def place(self, node: fx.Node) -> tuple[int, str]:
        """The stage of a result, and its layer there."""
        paths = [str(path) for path, _ in (node.meta.get("nn_module_stack") or {}).values()]
        inside = [path for path in paths if path.startswith("stages.")]
        if not inside:
            raise ExportError(f"{node.name} belongs to no stage; report this with the network")
        stage, *layer = inside[-1].split(".")[1:]
        here = self.chain.get_submodule(inside[-1])
        graphs = [
            name for name, module in here.named_modules() if isinstance(module, fx.GraphModule)
        ]
        if graphs:
            # A graph calls no layers, but its weights kept their names.
            prefix = f"{inside[-1]}.{graphs[0]}".removesuffix(".")
            layer = self._weights_before(node, f"{prefix}.") or layer
        return int(stage), ".".join(layer)

    def _weights_before(self, node: fx.Node, prefix: str) -> list[str]:
        for other in reversed(self._ordered(self._before(node))):
            if other.op == "get_attr" and str(other.target).startswith(prefix):
                return str(other.target).removeprefix(prefix).split(".")[:-1]
        return []

    def _normalised(self, image: fx.Node) -> tuple[fx.Node, nn.Module]:
        """Where the stages' ``Preprocess`` ends: targets that quantise know that module by type."""
        found = [module for module in self.chain.modules() if isinstance(module, Preprocess)]
        names = [name for name, module in self.chain.named_modules() if module in found]
        inside = [
            node
            for node in self.order
            if any(path in names for path, _ in (node.meta.get("nn_module_stack") or {}).values())
        ]
        if len(found) != 1 or not inside:
            return image, nn.Identity()
        root = inside[-1]
        around = self._after(image) - self._after(root) - set(inside) - {image}
        return (image, nn.Identity()) if around else (root, found[0])

    def _after(self, node: fx.Node) -> set[fx.Node]:
        found = {node}
        for other in self.order:
            if not found.isdisjoint(other.all_input_nodes):
                found.add(other)
        return found

    def _before(self, node: fx.Node) -> set[fx.Node]:
        found: set[fx.Node] = set()
        waiting = [node]
        while waiting:
            here = waiting.pop()
            if here not in found:
                found.add(here)
                # Beyond the root is what the prefix is given.
                waiting += [] if here is self.root else here.all_input_nodes
        return found

    def _ordered(self, nodes: Iterable[fx.Node]) -> list[fx.Node]:
        return sorted(nodes, key=self.order.__getitem__)


@final
class _Chain(nn.Module):
    def __init__(self, stages: Sequence[nn.Module]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        answers: list[Tensor] = []
        carry: tuple[Tensor, ...] = (image,)
        for stage in self.stages:
            logits, *handed_on = stage(*carry)
            answers.append(logits)
            carry = tuple(handed_on)
        return tuple(answers)


@final
class _Prefix(nn.Module):
    def __init__(self, preprocess: nn.Module, part: nn.Module) -> None:
        super().__init__()
        self.preprocess = preprocess
        self.part = part

    def forward(self, image: Tensor) -> tuple[Tensor]:
        (result,) = self.part(self.preprocess(image))
        # Logits are of float32; a mask or a whole number is handed out as such.
        return (torch.flatten(result, 1).float(),)


def is_row(node: fx.Node) -> bool:
    """Whether this is a result of one image, which may be handed out."""
    value: Any = node.meta.get("val")
    return (
        node.op == "call_function"
        and isinstance(value, Tensor)
        and value.ndim >= _FEWEST_RANK
        and value.shape[0] == 1
    )
