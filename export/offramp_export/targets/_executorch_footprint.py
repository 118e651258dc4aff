"""What each method of a ``.pte`` file takes.

The file says what a method's memory plan reserves. What XNNPACK's graphs hold between their
operators is reserved by XNNPACK when it runs, so that is computed from the graphs in the file.
"""

from __future__ import annotations

import json
import math
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from offramp.errors import ExportError
from offramp_export._require import require
from offramp_export.footprint import Operator, StageFootprint, peak_bytes, weigh

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from offramp_export.footprint import StageDelegation

__all__ = ["read_footprint"]

_XNNPACK = "XnnpackBackend"
_HEADER_BYTES = 30
_SCALAR_BYTES = {"FLOAT": 4, "CHAR": 1}  # of what crosses the edges of a stage
_ITEM_BYTES = {"fp32": 4, "int32": 4, "qint32": 4, "fp16": 2, "bf16": 2}
_ITEM_BYTES |= {"qint8": 1, "quint8": 1, "qdint8": 1, "qpint8": 1}
_INFINITE = re.compile(rb":\s*-?inf\b")  # the bounds of a clamp, as flatc writes them


def read_footprint(
    content: bytes, delegation: Sequence[StageDelegation]
) -> tuple[StageFootprint, ...]:
    """Read every method, ``stage_0`` first.

    Args:
        content: The file.
        delegation: What XNNPACK took of each stage.
    """
    # The only reader there is; it is internal, and the extra admits one minor version of it.
    file = require("executorch.exir._serialize._program").deserialize_pte_binary(content)
    program = file.program
    # Beside the stages there may be methods that only return constants.
    by_name = {plan.name: plan for plan in program.execution_plan}
    plans = [by_name[f"stage_{stage}"] for stage in range(len(delegation))]
    named = file.named_data
    sizes = {
        key: len(named.buffers[entry.buffer_index])
        for key, entry in (named.pte_data.items() if named else ())
    }
    sizes |= {
        f"constant_{place}": len(constant.storage)
        for place, constant in enumerate(program.constant_buffer)
    }
    graphs = [
        [
            _read_graph(bytes(program.backend_delegate_data[delegate.processed.index].data))
            for delegate in plan.delegates
            if delegate.id == _XNNPACK
        ]
        for plan in plans
    ]
    used = [
        {*_constants_of(plan), *(name for graph in inside for name in graph.constants)}
        for plan, inside in zip(plans, graphs, strict=True)
    ]
    return tuple(
        StageFootprint(
            weight_bytes=weight_bytes,
            shared_bytes=shared_bytes,
            peak_activation_bytes=planned_bytes
            + given_bytes
            + max((graph.peak for graph in inside), default=0),
            planned_bytes=planned_bytes,
            delegation=found,
        )
        for (weight_bytes, shared_bytes), inside, planned_bytes, given_bytes, found in zip(
            weigh(used, sizes),
            graphs,
            (sum(plan.non_const_buffer_sizes) for plan in plans),
            (_given_bytes(plan) for plan in plans),
            delegation,
            strict=True,
        )
    )


def _given_bytes(plan: Any) -> int:
    """What the caller holds for a method: a plan has no place for what is read."""
    tensors = [plan.values[place].val for place in plan.inputs]
    return sum(math.prod(one.sizes) * _SCALAR_BYTES[one.scalar_type.name] for one in tensors)


def _constants_of(plan: Any) -> Iterator[str]:
    for value in plan.values:
        # Number 0 says that a tensor is computed.
        place = getattr(value.val, "data_buffer_idx", 0)
        if place and value.val.allocation_info is None:
            yield f"constant_{place}"


@final
@dataclass(frozen=True, slots=True)
class _Graph:
    """One graph of XNNPACK.

    Attributes:
        constants: Keys of the file's named data.
        peak: Bytes of its inner values, at the most.
    """

    constants: tuple[str, ...]
    peak: int


def _read_graph(payload: bytes) -> _Graph:
    data = _decompile(payload)
    inner = {}
    for entry in data["xvalues"]:
        value = entry["xvalue_union"]
        value = value.get("tensor_value", value)
        if not value["constant_buffer_idx"] and not value["flags"]:  # flags mark inputs and outputs
            item = value["datatype"].removeprefix("xnn_datatype_")
            if item not in _ITEM_BYTES:
                raise ExportError(
                    f"ExecuTorch: XNNPACK computes values of type {item}, whose size is not known "
                    "here; report this with the network"
                )
            inner[value["id_out"]] = math.prod(value["dims"]) * _ITEM_BYTES[item]
    operators = [_operator(node["xnode_union"]) for node in data["xnodes"]]
    constants = tuple(entry["named_key"] for entry in data["constant_data"] if entry["named_key"])
    return _Graph(constants, peak_bytes(operators, inner, held=()))


def _operator(node: dict[str, Any]) -> Operator:
    inputs: list[int] = []
    outputs: list[int] = []
    for name, value in node.items():
        if name.endswith(("_id", "_ids")):
            side = outputs if name.startswith("output") else inputs
            side += value if isinstance(value, list) else [value]
    return Operator(tuple(inputs), tuple(outputs))


def _decompile(payload: bytes) -> dict[str, Any]:
    serialize = require("executorch.backends.xnnpack.serialization.xnnpack_graph_serialize")
    flatbuffer = require("executorch.exir._serialize._flatbuffer")
    header = serialize.XNNHeader.from_bytes(payload[:_HEADER_BYTES])
    start = header.flatbuffer_offset
    with tempfile.TemporaryDirectory() as name:
        schema, graph = Path(name, "schema.fbs"), Path(name, "graph.bin")
        schema.write_bytes(serialize._get_schema_bytes())
        graph.write_bytes(payload[start : start + header.flatbuffer_size])
        flatbuffer._flatc_decompile(name, str(schema), str(graph), ["--raw-binary"])
        text = graph.with_suffix(".json").read_bytes()
    data: dict[str, Any] = json.loads(_INFINITE.sub(b": 0", text))
    return data
