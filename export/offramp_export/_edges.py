"""What crosses from one stage to the next, found by running the stages once."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor, nn

from offramp.errors import ConversionError, ExportError
from offramp_export._first_line import first_line

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Edges", "channel_last", "export_stage", "prepare_stages", "run_stages", "trace_edges"]

_IMAGE_RANK = 4


@final
@dataclass(frozen=True, slots=True)
class Edges:
    """The shapes at the edges of the stages, batch 1.

    Attributes:
        carries: Per stage, the torch shapes of its inputs; ``carries[0]`` is the image,
            ``((1, height, width, 3),)``.
        num_classes: Classes of every exit.
    """

    carries: tuple[tuple[tuple[int, ...], ...], ...]
    num_classes: int


def channel_last(shape: Sequence[int]) -> tuple[int, ...]:
    """The shape at the edge of a channel-last program of a tensor of this torch shape."""
    if len(shape) == _IMAGE_RANK:
        batch, channels, height, width = shape
        return (batch, height, width, channels)
    return tuple(shape)


def prepare_stages(stages: Sequence[nn.Module]) -> tuple[nn.Module, ...]:
    """Copies of the stages, ready for conversion: float32, on the CPU, in evaluation mode.

    They are copied together, so what they share stays shared; the originals are left alone.
    """
    copies: list[nn.Module] = copy.deepcopy(list(stages))
    for stage in copies:
        stage.to(device="cpu", dtype=torch.float32).eval().requires_grad_(False)
        # Converters have read channels-last weights in the wrong order, without a word:
        # https://github.com/google-ai-edge/litert-torch/issues/1238 (0.9; not seen in 0.10)
        for parameter in stage.parameters():
            parameter.data = parameter.data.contiguous()
    return tuple(copies)


def trace_edges(stages: Sequence[nn.Module], height: int, width: int) -> Edges:
    """Run the stages once on a grey image and note what they hand on.

    Args:
        stages: As ``prepare_stages`` returns them.
        height: Rows of the image.
        width: Columns of the image.

    Raises:
        ExportError: The stages do not fit together, or break the contract of a stage; says which
            one and how.
    """
    if not stages:
        raise ExportError("there are no stages to export; expected at least one")
    carry: tuple[Tensor, ...] = (torch.full((1, height, width, 3), 128.0),)
    carries = [_shapes(carry)]
    classes: int | None = None
    for index, stage in enumerate(stages):
        logits, carry = _step(stage, index, carry)
        if classes is None:
            classes = logits.shape[1]
        if logits.shape[1] != classes:
            raise ExportError(
                f"stage {index} answers with {logits.shape[1]} classes and stage 0 with {classes}; "
                "every exit must answer with the same classes"
            )
        if index < len(stages) - 1:
            if not carry:
                raise ExportError(
                    f"stage {index} hands on nothing, but is not the last; expected "
                    "(logits, *carry) with at least one tensor for the next stage"
                )
            carries.append(_shapes(carry))
    if carry:
        raise ExportError(
            f"the last stage, {len(stages) - 1}, hands on {len(carry)} tensors that nobody reads; "
            "it must return (logits,) alone"
        )
    assert classes is not None
    return Edges(tuple(carries), classes)


def run_stages(stages: Sequence[nn.Module], image: Tensor) -> list[tuple[Tensor, ...]]:
    """The outputs of every stage, ``(logits, *carry)``, for a batch of images.

    Args:
        stages: As ``prepare_stages`` returns them.
        image: ``(images, height, width, 3)`` float32, 0 to 255.
    """
    outputs = []
    carry: tuple[Tensor, ...] = (image,)
    with torch.no_grad():
        for stage in stages:
            result = tuple(stage(*carry))
            outputs.append(result)
            carry = result[1:]
    return outputs


def export_stage(
    stage: nn.Module, index: int, shapes: Sequence[tuple[int, ...]]
) -> torch.export.ExportedProgram:
    """The graph of one stage, for the converters that start from it.

    Args:
        stage: In evaluation mode.
        index: Which it is.
        shapes: Of its inputs, batch 1.

    Raises:
        ConversionError: torch cannot export it.
    """
    try:
        with torch.no_grad():
            return torch.export.export(stage, tuple(torch.zeros(shape) for shape in shapes))
    except Exception as error:
        raise ConversionError(
            f"torch.export refused stage {index}: {first_line(error)}; take what depends on the "
            "values of the image out of it",
            stage=index,
        ) from error


def _shapes(tensors: Sequence[Tensor]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(tensor.shape) for tensor in tensors)


def _step(
    stage: nn.Module, index: int, carry: tuple[Tensor, ...]
) -> tuple[Tensor, tuple[Tensor, ...]]:
    try:
        with torch.no_grad():
            result = stage(*carry)
    except Exception as error:
        got = ", ".join(str(shape) for shape in _shapes(carry))
        raise ExportError(
            f"stage {index} ({type(stage).__name__}) does not run on what it is given, {got}: "
            f"{error}"
        ) from error
    if not isinstance(result, tuple | list) or not result:
        raise ExportError(
            f"stage {index} returned {type(result).__name__}; expected a tuple (logits, *carry)"
        )
    for position, value in enumerate(result):
        what = "logits" if position == 0 else f"carry {position - 1}"
        if not isinstance(value, Tensor):
            raise ExportError(
                f"stage {index} returned {type(value).__name__} as its {what}; expected a tensor"
            )
        ranks = (2,) if position == 0 else (2, _IMAGE_RANK)
        if value.dtype != torch.float32 or value.ndim not in ranks or value.shape[0] != 1:
            expected = "(1, classes)" if position == 0 else "(1, C, H, W) or (1, features)"
            raise ExportError(
                f"stage {index} returned {value.dtype} {tuple(value.shape)} as its {what}; "
                f"expected torch.float32 {expected}"
            )
    logits = result[0]
    if not bool(torch.isfinite(logits).all()):
        raise ExportError(
            f"stage {index} answers a grey image with logits that are not finite; "
            "train or repair the network first"
        )
    return logits, tuple(result[1:])
