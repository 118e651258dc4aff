"""Many small modules in one LiteRT program, so that one transfer to a device measures them all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, final

import numpy as np
import torch
from torch import Tensor, nn

from offramp.errors import ExportError
from offramp_export._edges import channel_last, prepare_stages
from offramp_export._litert.channel_last import ChannelLast
from offramp_export._litert.convert import Signature, convert_signatures
from offramp_export._litert.flatbuffer import mend
from offramp_export._litert.quantize import quantize_signatures
from offramp_export._litert.split import split_signature

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["convert_blocks"]

# Of the random inputs that give an int8 block its ranges; a latency does not depend on them.
_SAMPLES = 2
_SEED = 0


def convert_blocks(
    blocks: Mapping[str, tuple[nn.Module, Sequence[tuple[int, ...]]]],
    *,
    precision: Literal["float32", "int8"],
) -> bytes:
    """Convert blocks into one LiteRT program, one signature each, for their latency alone.

    Maps are channel-last at the edges, as they are between stages. In int8 the ranges come from
    random inputs, so the answers mean nothing.

    Args:
        blocks: Signature name -> (module, torch shapes of its inputs, batch 1). A module returns
            one tensor or a tuple of them.
        precision: ``float32`` or static ``int8``.

    Returns:
        The content of a ``.tflite`` file; inputs are ``args_0``, ..., outputs ``output_0``, ...

    Raises:
        ExportError: There are no blocks, or one does not run or convert; says which.
    """
    if precision not in ("float32", "int8"):
        raise ExportError(f"blocks have no precision {precision!r}; expected 'float32' or 'int8'")
    if not blocks:
        raise ExportError("there are no blocks to convert; expected at least one")
    modules = prepare_stages([module for module, _ in blocks.values()])
    shapes = {
        name: tuple(channel_last(shape) for shape in shapes) for name, (_, shapes) in blocks.items()
    }
    wrapped = {name: ChannelLast(module) for name, module in zip(blocks, modules, strict=True)}
    parts = {
        name: (len(shapes[name]), _count_outputs(name, module, shapes[name]))
        for name, module in wrapped.items()
    }
    together = Signature(
        _Together(list(wrapped.values()), [inputs for inputs, _ in parts.values()]).eval(),
        tuple(shape for name in parts for shape in shapes[name]),
    )
    program = mend(split_signature(convert_signatures({"blocks": together}), parts))
    if precision == "float32":
        return program
    generator = np.random.default_rng(_SEED)
    samples = {
        name: [
            tuple(generator.standard_normal(shape, np.float32) for shape in shapes[name])
            for _ in range(_SAMPLES)
        ]
        for name in parts
    }
    return quantize_signatures(program, samples)


@final
class _Together(nn.Module):
    """Modules side by side, each with inputs of its own."""

    def __init__(self, modules: Sequence[nn.Module], input_counts: Sequence[int]) -> None:
        super().__init__()
        self.modules_ = nn.ModuleList(modules)
        self.input_counts = tuple(input_counts)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        outputs: list[Tensor] = []
        start = 0
        for module, count in zip(self.modules_, self.input_counts, strict=True):
            outputs += module(*inputs[start : start + count])
            start += count
        return tuple(outputs)


def _count_outputs(name: str, module: nn.Module, shapes: Sequence[tuple[int, ...]]) -> int:
    try:
        with torch.no_grad():
            return len(module(*(torch.zeros(shape) for shape in shapes)))
    except Exception as error:
        raise ExportError(
            f"block {name!r} does not run on inputs of its shapes, channel-last "
            f"{', '.join(map(str, shapes))}: {error}"
        ) from error
