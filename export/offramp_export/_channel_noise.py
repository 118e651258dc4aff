"""How far rounding a channel, or the weights that read it, moves the logits of all exits.

To first order an error that is independent of everything else moves a logit by its own size times
the gradient. Gradients of a random sum of centred logits, squared and averaged over images, give
that for all exits and classes at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch
from torch import Tensor, fx

from offramp_export._usual_bounds import usual_bounds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from offramp_export._channel_ties import ChannelTies

__all__ = ["ChannelNoise", "measure_noise"]


@final
@dataclass(frozen=True, slots=True, eq=False)
class ChannelNoise:
    """What one stage's roundings do.

    Attributes:
        bounds: Name of a node -> ``(2, channels)`` float64, the smallest and the largest value of
            every channel.
        activations: Name of a node -> ``(channels,)`` float64, by how much an error of variance one
            in every number of a channel raises the variance of the logits. Zeros that a ReLU
            leaves are exact, and do not count.
        weights: Key of a weight -> ``(outputs, inputs)`` float64, likewise of an error in the
            weights.
        largest: Key of a weight -> ``(outputs, inputs)`` float64, its largest magnitude.
    """

    bounds: dict[str, NDArray[np.float64]]
    activations: dict[str, NDArray[np.float64]]
    weights: dict[str, NDArray[np.float64]]
    largest: dict[str, NDArray[np.float64]]


def measure_noise(
    programs: Sequence[torch.export.ExportedProgram], ties: Sequence[ChannelTies], images: Tensor
) -> list[ChannelNoise]:
    """Run and differentiate all stages, one image at a time.

    Args:
        programs: Of the stages, batch 1.
        ties: Of the programs.
        images: ``(images, height, width, 3)`` float32, 0 to 255.
    """
    generator = torch.Generator().manual_seed(0)
    runs = [_Run(program, tie) for program, tie in zip(programs, ties, strict=True)]
    with torch.no_grad():
        exact = [_answers(runs, image[None]) for image in images]
    spreads = [_centred(torch.cat(each)).std(correction=0) for each in zip(*exact, strict=True)]
    for run in runs:
        run.forget()
    for image in images:
        total = torch.zeros(())
        for logits, spread in zip(_answers(runs, image[None]), spreads, strict=True):
            chosen = torch.randn(logits.shape, generator=generator)
            total = total + (_centred(logits) * chosen).sum() / spread.clamp_min(1e-12)
        for run in runs:
            run.differentiate(total)
    return [run.result(len(images)) for run in runs]


def _answers(runs: Sequence[_Run], image: Tensor) -> list[Tensor]:
    """The logits of every exit."""
    answers = []
    carry: tuple[Tensor, ...] = (image,)
    for run in runs:
        logits, *carried = run.answer(carry)
        answers.append(logits)
        carry = tuple(carried)
    return answers


def _centred(logits: Tensor) -> Tensor:
    return logits - logits.mean(1, keepdim=True)


def _flat(value: Tensor) -> Tensor:
    """With all places of a channel in one dimension: ``(images, channels, places)``."""
    return value.flatten(2) if value.ndim > 2 else value.unsqueeze(2)


@final
class _Run(fx.Interpreter):
    """Keeps the activations that are rounded, and sums what their gradients say."""

    def __init__(self, program: torch.export.ExportedProgram, ties: ChannelTies) -> None:
        super().__init__(program.graph_module)
        signature = program.graph_signature
        keys = {
            **signature.inputs_to_parameters,
            **signature.inputs_to_buffers,
            **signature.inputs_to_lifted_tensor_constants,
        }
        known = {**program.constants, **program.state_dict}
        spread = {layer.weight for layer in ties.layers if layer.kind == "spread"}
        self._weights = {
            key: known[key].detach().clone().requires_grad_(True) for key in sorted(spread)
        }
        known = {**known, **self._weights}
        self._inputs = [
            known[keys[node.name]] if node.name in keys else None
            for node in program.graph.nodes
            if node.op == "placeholder"
        ]
        self._names = set(ties.rounded)
        self._kept: dict[str, Tensor] = {}
        self._seen: dict[str, list[NDArray[np.float32]]] = {name: [] for name in self._names}
        self._sums: dict[str, Tensor] = {}
        self._positions: dict[str, int] = {}

    def answer(self, carry: Sequence[Tensor]) -> Any:
        given = iter(carry)
        self._kept = {}
        return self.run(*(next(given) if value is None else value for value in self._inputs))

    def run_node(self, n: fx.Node) -> Any:
        packet = str(getattr(n.target, "overloadpacket", ""))
        if n.op == "call_function" and packet.endswith("_") and isinstance(n.args[0], fx.Node):
            # Gradients may need what would be overwritten; later readers see the result anyway.
            self.env[n.args[0]] = self.env[n.args[0]].clone()
        result = super().run_node(n)
        if n.name in self._names:
            self._kept[n.name] = result
            self._positions[n.name] = math.prod(result.shape[2:]) if result.ndim > 2 else 0
            low, high = _flat(result.detach()).aminmax(dim=2)
            self._seen[n.name].append(torch.cat([low, high]).numpy().copy())
        return result

    def forget(self) -> None:
        """Bounds seen until now."""
        self._seen = {name: [] for name in self._names}

    def differentiate(self, total: Tensor) -> None:
        kept = {name: value for name, value in self._kept.items() if value.requires_grad}
        wanted = {**kept, **self._weights}
        if not wanted or not total.requires_grad:
            return
        gradients = torch.autograd.grad(
            total, list(wanted.values()), retain_graph=True, allow_unused=True
        )
        for (name, value), gradient in zip(wanted.items(), gradients, strict=True):
            if gradient is None:
                continue
            squared = gradient.double().square()
            if name in kept:
                found = _flat(squared * (value.detach() != 0)).sum((0, 2))
            else:
                found = _flat(squared).sum(2)
            self._sums[name] = self._sums.get(name, torch.zeros(())) + found

    def result(self, images: int) -> ChannelNoise:
        bounds = {
            name: np.array(
                [
                    usual_bounds(*pair, positions=self._positions[name])
                    for pair in np.stack(seen).transpose(2, 1, 0)
                ]
            ).T
            for name, seen in self._seen.items()
        }
        means = {name: (total / images).numpy() for name, total in self._sums.items()}
        largest = {
            key: _flat(weight.detach().abs()).amax(2).double().numpy()
            for key, weight in self._weights.items()
        }
        return ChannelNoise(
            bounds,
            {name: means[name] for name in sorted(self._names) if name in means},
            {key: means[key] for key in self._weights if key in means},
            largest,
        )
