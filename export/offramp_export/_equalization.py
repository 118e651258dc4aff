"""Evening out the channels of activations, which int8 rounds with one scale for all of them.

Scaling a channel where it is made and undoing it where it is read leaves the float network as it
is, and changes what a step of int8 is worth in that channel (Nagel et al., "Data-Free Quantization
Through Weight Equalization and Bias Correction", ICCV 2019, section 4.1). How far each channel is
scaled is chosen here by what rounding does to the logits: see ``_channel_scales``.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import torch

from offramp_export._channel_noise import measure_noise
from offramp_export._channel_scales import choose_scales
from offramp_export._channel_ties import read_ties
from offramp_export._edges import prepare_stages, run_stages

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from torch import Tensor, nn

    from offramp_export._channel_ties import ChannelTies

__all__ = ["equalize"]

_MOST_IMAGES = 100


def equalize(
    stages: Sequence[nn.Module], images: NDArray[np.uint8], *, least_gain: float = 0.25
) -> tuple[nn.Module, ...]:
    """Copies of the stages that answer alike in float32, and more exactly in static int8.

    If ``torch.export`` refuses a stage, all are copied as they are.

    Args:
        stages: As ``export`` takes them; they are left alone.
        images: ``(images, height, width, 3)`` uint8, RGB, from the training data.
        least_gain: Of the variance of rounding; a stage that promises less is left as it is.

    Returns:
        The stages, in evaluation mode, float32.
    """
    copies = prepare_stages(stages)
    places = np.linspace(0, len(images) - 1, min(len(images), _MOST_IMAGES)).round()
    chosen = torch.from_numpy(images[places.astype(np.int64)].astype(np.float32))
    programs = _export(copies, chosen[:1])
    if programs is None:
        return copies
    uses = _count_uses(copies, programs)
    ties = []
    for stage, program in zip(copies, programs, strict=True):
        free = {key for key, tensor in _tensors(stage).items() if uses[_storage(tensor)] == 1}
        ties.append(read_ties(program, free.__contains__))
    noise = measure_noise(programs, ties, chosen)
    for stage, found, measured in zip(copies, ties, noise, strict=True):
        _apply(_tensors(stage), found, choose_scales(found, measured, least_gain))
    return copies


def _export(
    stages: Sequence[nn.Module], image: Tensor
) -> list[torch.export.ExportedProgram] | None:
    programs = []
    carry: tuple[Tensor, ...] = (image,)
    for stage, outputs in zip(stages, run_stages(stages, image), strict=True):
        try:
            with torch.no_grad():
                programs.append(torch.export.export(stage, tuple(map(torch.zeros_like, carry))))
        except Exception:
            # Whether that is an error is for the target to say.
            return None
        carry = outputs[1:]
    return programs


def _count_uses(
    stages: Sequence[nn.Module], programs: Sequence[torch.export.ExportedProgram]
) -> Counter[int]:
    """How many nodes of all stages read a parameter or buffer, by where its values lie."""
    uses: Counter[int] = Counter()
    for stage, program in zip(stages, programs, strict=True):
        tensors = _tensors(stage)
        signature = program.graph_signature
        keys = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        for node in program.graph.nodes:
            if node.name in keys:
                uses[_storage(tensors[keys[node.name]])] += len(node.users)
    return uses


def _tensors(stage: nn.Module) -> dict[str, Tensor]:
    return {
        **dict(stage.named_parameters(remove_duplicate=False)),
        **dict(stage.named_buffers(remove_duplicate=False)),
    }


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _apply(tensors: Mapping[str, Tensor], ties: ChannelTies, scales: NDArray[np.float32]) -> None:
    """Put the scales into the parameters; ``scales`` is ``(classes,)``."""
    for layer in ties.layers:
        read = torch.from_numpy(scales[layer.read])
        made = torch.from_numpy(scales[layer.made])
        weight = tensors[layer.weight]
        along = (-1, *[1] * (weight.ndim - 1))
        with torch.no_grad():
            if layer.kind == "spread":
                weight.mul_(made.view(along)).div_(read.view(1, *along[:-1]))
            else:
                each = read.repeat_interleave(len(made) // len(read))
                weight.mul_((made / each).view(along))
            if layer.mean is not None:
                # The variance stays: what it divides has been scaled back by then.
                tensors[layer.mean].mul_(read)
            if layer.bias is not None:
                tensors[layer.bias].mul_(made)
