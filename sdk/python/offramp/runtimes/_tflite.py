"""LiteRT programs in tflite-runtime, for boards that the newer runtime does not reach."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Any, final

import numpy as np

from offramp._optional import require
from offramp.errors import ProgramError
from offramp.runtimes._edges import Edge
from offramp.runtimes._engine import Buffers, Engine, StageEdges, check_threads, refusals
from offramp.runtimes._tflite_verify import verify_flatbuffer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from offramp.bundle import ProgramStage, TensorEntry

__all__ = ["TFLiteEngine"]

_NAME = "tflite-runtime"


@final
class TFLiteEngine(Engine):
    """A LiteRT program whose stages are signatures of one classic interpreter.

    ``SignatureRunner`` resizes, allocates and copies all tensors at each call. Here the tensors'
    own memory is filled: one copy for each carry, and none of them resized. For that the subgraphs
    are invoked one by one, which the public interface of 2.14, the last release, does not offer.

    Args:
        program: The ``.tflite`` file's content, whose SHA-256 has been checked.
        threads: How many threads the kernels may use.

    Raises:
        ProgramError: The interpreter refused.
        MissingExtraError: tflite-runtime is not installed.
    """

    def __init__(self, program: bytes, *, threads: int = 1) -> None:
        check_threads(threads)
        interpreter = require("tflite_runtime.interpreter", extra="tflite").Interpreter
        verify_flatbuffer(program)
        with refusals(_NAME, "load the program"):
            self._interpreter: Any = interpreter(model_content=program, num_threads=threads)
        self._engine: Any = self._interpreter._interpreter
        self._runs: list[tuple[int, list[tuple[NDArray[Any], NDArray[Any]]]]] = []

    @property
    def name(self) -> str:
        """The package and its version."""
        return f"{_NAME} {version(_NAME)}"

    def edges(self) -> Mapping[str, StageEdges]:
        """The edges of every signature, by its name."""
        found = {}
        with refusals(_NAME, "read the program's signatures"):
            for signature in self._interpreter.get_signature_list():
                runner = self._interpreter.get_signature_runner(signature)
                inputs, outputs = runner.get_input_details(), runner.get_output_details()
                found[signature] = StageEdges(
                    tuple(_edge(inputs[key]) for key in _in_order(signature, inputs, "args_")),
                    tuple(_edge(outputs[key]) for key in _in_order(signature, outputs, "output_")),
                )
        return found

    def bind(self, stages: tuple[ProgramStage, ...]) -> Buffers:
        """Allocate all tensors and look at their memory."""
        signatures = self._interpreter._get_full_signature_list()
        runs = []
        logits: list[NDArray[Any]] = []
        image: NDArray[Any] | None = None
        carry: list[NDArray[Any]] = []
        for number, stage in enumerate(stages):
            name = f"stage_{number}"
            subgraph = self._engine.GetSubgraphIndexFromSignature(name)
            with refusals(_NAME, f"allocate {name}"):
                self._engine.AllocateTensors(subgraph)
            inputs = [
                (subgraph, signatures[name]["inputs"][f"args_{place}"])
                for place in range(len(stage.inputs))
            ]
            outputs = [
                (subgraph, signatures[name]["outputs"][f"output_{place}"])
                for place in range(len(stage.outputs))
            ]
            if outputs[0] in inputs:
                raise ProgramError(f"the logits of {name} are one of its inputs; export it anew")
            views = [
                self._view(*place, entry) for place, entry in zip(inputs, stage.inputs, strict=True)
            ]
            if image is None:
                (image,) = views
            runs.append((subgraph, list(zip(views, carry, strict=number > 0))))
            results = [
                self._view(*place, entry)
                for place, entry in zip(outputs, stage.outputs, strict=True)
            ]
            logits.append(results[0])
            carry = results[1:]
        assert image is not None
        self._runs = runs
        return Buffers(image[0], tuple(logits))

    def _view(self, subgraph: int, tensor: int, entry: TensorEntry) -> NDArray[Any]:
        with refusals(_NAME, "show the program's tensors"):
            array: NDArray[Any] = self._engine.tensor(self._engine, tensor, subgraph)
        # What it says of itself need not be what was allocated.
        if (array.dtype.name, array.shape) != (entry.dtype, entry.shape):
            raise ProgramError(
                f"tensor {tensor} of the program holds {array.dtype} {array.shape}, the manifest "
                f"lists {entry.dtype} {entry.shape}"
            )
        return array

    def run(self, stage: int) -> None:
        """Run one stage."""
        subgraph, carry = self._runs[stage]
        for into, value in carry:
            np.copyto(into, value)
        try:
            self._engine.Invoke(subgraph)
        except (RuntimeError, ValueError) as error:
            raise ProgramError(f"{_NAME} could not run stage {stage}: {error}") from error

    def close(self) -> None:
        """Let go of the interpreter, which frees itself with the last view of its memory."""
        self._runs = []
        self._interpreter = self._engine = None


def _in_order(signature: str, details: Mapping[str, Any], prefix: str) -> list[str]:
    """Names by their number: the interpreter sorts them by their letters."""
    names = [f"{prefix}{place}" for place in range(len(details))]
    if set(names) != set(details):
        raise ProgramError(
            f"{signature} of the program has the tensors {sorted(details)}, expected {names}"
        )
    return names


def _edge(details: Mapping[str, Any]) -> Edge:
    parameters = details["quantization_parameters"]
    quantization = None
    if len(parameters["scales"]) == 1:
        quantization = (float(parameters["scales"][0]), int(parameters["zero_points"][0]))
    return Edge(np.dtype(details["dtype"]).name, tuple(details["shape"].tolist()), quantization)
