"""Which operators of each signature XNNPACK takes, as LiteRT decides when it loads them.

The interpreter lists the operators of a file's first graph only, with a ``DELEGATE`` for every part
that XNNPACK took. So each signature's graph is put in the first place in turn.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from offramp.errors import ExportError
from offramp_export._litert.flatbuffer import read_model, write_model
from offramp_export._quiet import quiet
from offramp_export.footprint import StageDelegation

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["delegations"]

_DELEGATE = "DELEGATE"


def delegations(data: bytes, names: Sequence[str]) -> Iterator[StageDelegation]:
    """Load each of the named signatures, and see what XNNPACK takes of it on this machine.

    Args:
        data: The ``.tflite`` file.
        names: Of the signatures.

    Raises:
        ExportError: LiteRT could not load one.
    """
    model = read_model(data)
    places = {entry.signatureKey.decode(): entry.subgraphIndex for entry in model.signatureDefs}
    # They would name the graphs by their old places.
    model.signatureDefs = []
    graphs = list(model.subgraphs)
    for name in names:
        model.subgraphs = list(graphs)
        # Two change places, so that graphs which operators refer to stay where they are.
        place = places[name]
        model.subgraphs[0], model.subgraphs[place] = graphs[place], graphs[0]
        yield _count(_operators(name, write_model(model)))


def _operators(name: str, data: bytes) -> list[dict[str, Any]]:
    from ai_edge_litert.interpreter import Interpreter

    with quiet():
        try:
            interpreter = Interpreter(model_content=data, num_threads=1)
            # XNNPACK takes its part now.
            interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            raise ExportError(
                f"LiteRT could not load {name} to see what XNNPACK takes of it: {error}; replace "
                "the operator it names, or leave LiteRT out of the targets"
            ) from error
        found: list[dict[str, Any]] = interpreter._get_ops_details()
    return found


def _count(operators: Sequence[dict[str, Any]]) -> StageDelegation:
    plain = [operator for operator in operators if operator["op_name"] != _DELEGATE]
    makers = {
        int(tensor): place for place, operator in enumerate(plain) for tensor in operator["outputs"]
    }
    taken: set[int] = set()
    for part in operators:
        if part["op_name"] == _DELEGATE:
            outside = set(map(int, part["inputs"]))
            waiting = list(map(int, part["outputs"]))
            # A part holds whatever lies between what goes in and what comes out.
            while waiting:
                tensor = waiting.pop()
                if tensor not in outside and tensor in makers and makers[tensor] not in taken:
                    taken.add(makers[tensor])
                    waiting += map(int, plain[makers[tensor]]["inputs"])
    names = [operator["op_name"] for operator in plain]
    return StageDelegation(
        delegated=dict(Counter(name for place, name in enumerate(names) if place in taken)),
        left=dict(Counter(name for place, name in enumerate(names) if place not in taken)),
    )
