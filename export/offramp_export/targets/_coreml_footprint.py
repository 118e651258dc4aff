"""What each stage's function of a Core ML package takes."""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING, Any

from offramp_export._require import require
from offramp_export.footprint import StageFootprint, weigh

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["read_footprint"]

_WEIGHTS = "@model_path/"
_ENTRY = struct.Struct("<IIQQ")  # marker, element type, bytes, place of the content
_MARKER = 0xDEADBEEF


def read_footprint(files: Mapping[str, bytes], num_stages: int) -> tuple[StageFootprint, ...]:
    """Weigh what each stage's function refers to in the weight file of its package.

    Where activations go, and what runs where, Core ML decides on the device.

    Args:
        files: Path inside the bundle -> content.
        num_stages: How many stages there are.
    """
    used: list[set[tuple[str, int]]] = [set() for _ in range(num_stages)]
    sizes: dict[tuple[str, int], int] = {}
    for path, content in files.items():
        if not path.endswith(".mlmodel"):
            continue
        folder = path.rpartition("/")[0]
        of_stage = re.search(r"_stage_(\d+)\.mlpackage/", path)
        model = require("coremltools").proto.Model_pb2.Model.FromString(content)
        for name, function in model.mlProgram.functions.items():
            stage = int(of_stage[1] if of_stage else name.removeprefix("stage_"))
            for blob in _blobs(function):
                file = f"{folder}/{blob.fileName.removeprefix(_WEIGHTS)}"
                marker, _, size_bytes, _ = _ENTRY.unpack_from(files[file], blob.offset)
                assert marker == _MARKER, f"{file} has no weight at {blob.offset}"
                used[stage].add((file, blob.offset))
                sizes[file, blob.offset] = size_bytes
    return tuple(
        StageFootprint(weight_bytes=weight_bytes, shared_bytes=shared_bytes)
        for weight_bytes, shared_bytes in weigh(used, sizes)
    )


def _blobs(function: Any) -> Iterator[Any]:
    """The places in weight files that a function's operators refer to."""
    for block in function.block_specializations.values():
        for operation in block.operations:
            values = list(operation.attributes.values())
            values += [
                argument.value
                for binding in operation.inputs.values()
                for argument in binding.arguments
                if argument.WhichOneof("binding") == "value"
            ]
            yield from (
                value.blobFileValue
                for value in values
                if value.WhichOneof("value") == "blobFileValue"
            )
