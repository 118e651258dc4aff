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
        ConversionError: The converter refused a module; says which one. Or LiteRT has no kernel for
            what it made of them.
    """
    os.environ["LITERT_TORCH_SHOW_PROGRESS"] = "n"
    with quiet():
        converter = require("litert_torch")
        builder = converter
        for name, signature in signatures.items():
            example = tuple(torch.zeros(shape) for shape in signature.shapes)
            builder = builder.signature(name, signature.module.eval(), example)
        try:
            content = bytes(builder.convert().model_content())
        except Exception as error:
            culprit = _first_refused(converter, signatures)
            raise ConversionError(
                f"LiteRT's converter refused {culprit or 'the program'}: {first_line(error)}; "
                "replace the operator it names, or leave LiteRT out of the targets"
            ) from error
        _require_kernels(content)
    return content


def _require_kernels(content: bytes) -> None:
    """The converter also writes operators that the runtime does not have, such as a sort."""
    package = require("ai_edge_litert.interpreter")
    try:
        package.Interpreter(
            model_content=content,
            experimental_op_resolver_type=package.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        )
    except ValueError as error:
        # What follows asks for an older program, which there is none of.
        missing, _, _ = first_line(error).partition(". ")
        raise ConversionError(
            f"LiteRT cannot load what its converter made: {missing}; replace the "
            "operator it names, or leave LiteRT out of the targets"
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
