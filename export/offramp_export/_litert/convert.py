"""From torch modules to a float LiteRT program with one signature each."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch
from torch import nn

from offramp.errors import ConversionError
from offramp_export._first_line import first_line
from offramp_export._quiet import quiet
from offramp_export._require import require

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Signature", "convert_signatures"]


@final
@dataclass(frozen=True, slots=True)
class Signature:
    """One signature to be: a module in evaluation mode and the shapes it is called with."""

    module: nn.Module
    shapes: tuple[tuple[int, ...], ...]


def convert_signatures(signatures: Mapping[str, Signature]) -> bytes:
    """Convert all modules into one float32 program; equal weights are stored once.

    Args:
        signatures: Signature name -> what it computes; kept in this order.

    Returns:
        The content of a ``.tflite`` file as the converter leaves it; see ``mend``.

    Raises:
        ConversionError: The converter refused a module; says which one.
    """
    os.environ["LITERT_TORCH_SHOW_PROGRESS"] = "n"
    with quiet():
        converter = require("litert_torch")
        builder = converter
        for name, signature in signatures.items():
            example = tuple(torch.zeros(shape) for shape in signature.shapes)
            builder = builder.signature(name, signature.module.eval(), example)
        try:
            return bytes(builder.convert().model_content())
        except Exception as error:
            culprit = _first_refused(converter, signatures)
            raise ConversionError(
                f"LiteRT's converter refused {culprit or 'the program'}: {first_line(error)}; "
                "replace the operator it names, or leave LiteRT out of the targets"
            ) from error


def _first_refused(converter: object, signatures: Mapping[str, Signature]) -> str | None:
    """Convert one by one, to name the module that does not convert."""
    for name, signature in signatures.items():
        example = tuple(torch.zeros(shape) for shape in signature.shapes)
        try:
            converter.signature(name, signature.module, example).convert()  # type: ignore[attr-defined]
        except Exception:
            return name
    return None
