"""LiteRT's compiled models: opened from bytes, quietly, and run by signature name."""

from __future__ import annotations

import contextlib
import ctypes
import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, final

import numpy as np

from offramp.errors import OfframpError, ProgramError
from offramp.runtimes._quiet import Said, capture_stderr, silence_process_exit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

__all__ = ["LiteRTEngine", "Signature", "refusals"]

_ALIGNMENT_BYTES = 64  # what the engine asks of memory that is not its own


@final
@dataclass(frozen=True, slots=True)
class Signature:
    """One signature, ready to be bound to buffers.

    Attributes:
        name: As exported, such as ``stage_0``.
        index: What the engine calls it.
        inputs: ``(dtype, shape)`` of each input, in order.
        outputs: ``(dtype, shape)`` of each output, in order.
        quantizations: Of the inputs and then the outputs; ``(scale, zero point)`` or ``None``.
        same_as_input: Per output, the input that it is, where the program hands one through.
        same_as_output: Per output, the earlier output that it is, where two are one tensor.
    """

    name: str
    index: int
    inputs: tuple[tuple[str, tuple[int, ...]], ...]
    outputs: tuple[tuple[str, tuple[int, ...]], ...]
    quantizations: tuple[tuple[float, int] | None, ...]
    same_as_input: tuple[int | None, ...]
    same_as_output: tuple[int | None, ...]


@final
class LiteRTEngine:
    """One program in LiteRT.

    Programs are opened from bytes: opening a truncated file by its path kills the process.

    Args:
        program: The ``.tflite`` file's content, whose SHA-256 has been checked.
        threads: How many threads the kernels may use.

    Raises:
        ProgramError: LiteRT refused; the message holds what it wrote.
    """

    def __init__(self, program: bytes, *, threads: int) -> None:
        from ai_edge_litert.compiled_model import (
            CompiledModel,
            CpuOptions,
            HardwareAccelerator,
            Options,
        )

        if threads < 1:
            raise ValueError(f"threads is {threads}, expected at least 1")
        self._program = program
        with refusals("load the program"):
            self._model: Any = CompiledModel.from_buffer(
                program,
                environment=_environment(),
                options=Options(
                    hardware_accelerators=HardwareAccelerator.CPU,
                    cpu_options=CpuOptions(num_threads=threads),
                ),
            )

    def signatures(self) -> tuple[Signature, ...]:
        """All signatures, in the order of the file."""
        with refusals("read the program's signatures"):
            names = list(self._model.get_signature_list())
            return tuple(self._signature(name) for name in names)

    def _signature(self, name: str) -> Signature:
        # An unknown name gives -1, which the engine would take for another signature.
        index = self._model.get_signature_index(name)
        if index < 0:
            raise ProgramError(f"the program lost its signature {name!r}; export it anew")
        listed = self._model.get_signature_list()[name]
        into = self._model.get_input_tensor_details(name)
        out = self._model.get_output_tensor_details(name)
        inputs = [into[key] for key in listed["inputs"]]
        outputs = [out[key] for key in listed["outputs"]]
        input_tensors = [detail["index"] for detail in inputs]
        output_tensors = [detail["index"] for detail in outputs]
        scales = _quantizations(self._program, name)
        return Signature(
            name=name,
            index=index,
            inputs=tuple((detail["dtype"], tuple(detail["shape"])) for detail in inputs),
            outputs=tuple((detail["dtype"], tuple(detail["shape"])) for detail in outputs),
            quantizations=tuple(scales[tensor] for tensor in (*input_tensors, *output_tensors)),
            same_as_input=tuple(
                input_tensors.index(tensor) if tensor in input_tensors else None
                for tensor in output_tensors
            ),
            same_as_output=tuple(
                output_tensors.index(tensor) if tensor in output_tensors[:place] else None
                for place, tensor in enumerate(output_tensors)
            ),
        )

    def input_buffers(self, signature: Signature) -> list[Any]:
        """New input buffers of a signature."""
        with refusals(f"make the inputs of {signature.name}"):
            return list(self._model.create_input_buffers(signature.index))

    def array_buffer(self, dtype: str, shape: tuple[int, ...]) -> tuple[Any, NDArray[Any]]:
        """A buffer whose memory is an array: to read or write it is no call of the engine.

        Args:
            dtype: Of the tensor.
            shape: Of the tensor.

        Returns:
            The buffer, and the array of that dtype and shape, which must outlive it.
        """
        from ai_edge_litert.tensor_buffer import TensorBuffer

        size_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        # Kernels may read a little past the end of what they are given.
        memory = np.zeros(size_bytes + 2 * _ALIGNMENT_BYTES, np.uint8)
        start = -memory.ctypes.data % _ALIGNMENT_BYTES
        array = memory[start : start + size_bytes].view(dtype).reshape(shape)
        with refusals("make a buffer"):
            return TensorBuffer.create_from_host_memory(array), array

    def bind(
        self, signature: Signature, inputs: list[Any], first_output: Any = None
    ) -> tuple[Callable[[], None], list[Any]]:
        """Bind a signature to its input buffers and to output buffers of its own.

        An output that is one of the inputs shares that input's buffer: given another buffer, the
        engine would read the input from there, too, and answer with whatever lies in it.

        Args:
            signature: From ``signatures``.
            inputs: Buffers, possibly outputs of another signature; nothing is copied.
            first_output: A buffer to use for the first output, unless that is one of the inputs.

        Returns:
            A function that runs the signature, and the output buffers.
        """
        with refusals(f"make the outputs of {signature.name}"):
            outputs = list(self._model.create_output_buffers(signature.index))
        if first_output is not None:
            outputs[0] = first_output
        for place, shared in enumerate(signature.same_as_input):
            if shared is not None:
                outputs[place] = inputs[shared]
            elif (earlier := signature.same_as_output[place]) is not None:
                outputs[place] = outputs[earlier]
        return functools.partial(
            self._model.run_by_index, signature.index, inputs, outputs
        ), outputs

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the model; buffers and bound functions must be dropped as well."""
        self._model.close()


@contextlib.contextmanager
def refusals(doing: str) -> Iterator[None]:
    """Quiet while the engine works; its refusal becomes one of our errors."""
    said = Said()
    try:
        with capture_stderr() as said:
            yield
    except OfframpError:
        raise
    # LiteRT raises plain RuntimeError and ValueError for everything.
    except (RuntimeError, ValueError) as error:
        detail = "; ".join(line for line in (*str(error).splitlines(), *said.complaints()) if line)
        raise ProgramError(f"LiteRT could not {doing}: {detail}") from error


@functools.cache
def _environment() -> Any:
    """The one environment of the process: each further one would load every accelerator again."""
    from ai_edge_litert.compiled_model import Environment
    from ai_edge_litert.tensor_buffer import TensorBuffer

    environment = Environment.create()
    # Never destroyed, since that writes to the terminal at a moment nobody can foresee; the
    # system takes the memory back when the process ends.
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(environment))
    # The first buffer makes another environment, inside the engine, which outlives Python.
    TensorBuffer.create_from_host_memory(np.zeros(16, np.float32)).read(1, np.float32)
    silence_process_exit()
    return environment


def _quantizations(program: bytes, signature: str) -> dict[int, tuple[float, int] | None]:
    """Scale and zero point of every tensor of a signature; the engine itself does not tell."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.Model.GetRootAs(program, 0)
    wanted = signature.encode()
    definitions = (model.SignatureDefs(place) for place in range(model.SignatureDefsLength()))
    subgraph = next(
        model.Subgraphs(definition.SubgraphIndex())
        for definition in definitions
        if definition.SignatureKey() == wanted
    )
    result: dict[int, tuple[float, int] | None] = {}
    for place in range(subgraph.TensorsLength()):
        quantization = subgraph.Tensors(place).Quantization()
        quantized = quantization is not None and quantization.ScaleLength() == 1
        result[place] = (
            (float(quantization.Scale(0)), int(quantization.ZeroPoint(0))) if quantized else None
        )
    return result
