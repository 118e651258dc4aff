"""LiteRT's compiled models: opened from bytes, quietly, and run by signature name."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import weakref
from ctypes import byref, c_char_p, c_size_t, c_uint32, c_void_p
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, final

import numpy as np

from offramp.errors import OfframpError, ProgramError
from offramp.runtimes._litert_api import (
    DTYPES,
    PROCESSOR,
    Quantization,
    TensorType,
    call,
    environment,
    library,
)
from offramp.runtimes._quiet import Said, capture_stderr

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

__all__ = ["Buffer", "LiteRTEngine", "Signature", "refusals"]

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
@dataclass(frozen=True, slots=True, eq=False)
class Buffer:
    """Memory that the engine reads and writes, and that is an array at the same time.

    Attributes:
        array: Of the tensor's dtype and shape.
        handle: What the engine calls it; gone when the engine is closed.
    """

    array: NDArray[Any]
    handle: c_void_p


@final
@dataclass(frozen=True, slots=True)
class _Tensor:
    index: int
    dtype: str
    shape: tuple[int, ...]
    quantization: tuple[float, int] | None


@final
class LiteRTEngine:
    """One program in LiteRT.

    Programs are opened from bytes: opening a truncated file by its path kills the process. While a
    signature runs, other Python threads go on.

    Args:
        program: The ``.tflite`` file's content, whose SHA-256 has been checked.
        threads: How many threads the kernels may use.

    Raises:
        ProgramError: LiteRT refused; the message holds what it wrote.
    """

    def __init__(self, program: bytes, *, threads: int) -> None:
        if threads < 1:
            raise ValueError(f"threads is {threads}, expected at least 1")
        self._model, self._compiled = c_void_p(), c_void_p()
        self._buffers: list[Buffer] = []
        self._free = weakref.finalize(self, _free, self._buffers, self._compiled, self._model)
        # The weights are read from here as long as the program is open.
        self._memory = _aligned(len(program))
        self._memory[:] = np.frombuffer(program, np.uint8)
        address = self._memory.ctypes.data
        with refusals("load the program"):
            made = environment()
            call("CreateModelFromBuffer", made, address, len(program), byref(self._model))
            options = _options(threads)
            try:
                call("CreateCompiledModel", made, self._model, options, byref(self._compiled))
            finally:
                library().LiteRtDestroyOptions(options)

    def signatures(self) -> tuple[Signature, ...]:
        """All signatures, in the order of the file."""
        with refusals("read the program's signatures"):
            number = c_size_t()
            call("GetNumModelSignatures", self._model, byref(number))
            return tuple(self._signature(index) for index in range(number.value))

    def _signature(self, index: int) -> Signature:
        signature, name = c_void_p(), c_char_p()
        call("GetModelSignature", self._model, index, byref(signature))
        call("GetSignatureKey", signature, byref(name))
        inputs = self._tensors(signature, "Input")
        outputs = self._tensors(signature, "Output")
        input_indices = [tensor.index for tensor in inputs]
        output_indices = [tensor.index for tensor in outputs]
        return Signature(
            name=(name.value or b"").decode("utf-8", "replace"),
            index=index,
            inputs=tuple((tensor.dtype, tensor.shape) for tensor in inputs),
            outputs=tuple((tensor.dtype, tensor.shape) for tensor in outputs),
            quantizations=tuple(tensor.quantization for tensor in (*inputs, *outputs)),
            same_as_input=tuple(
                input_indices.index(tensor) if tensor in input_indices else None
                for tensor in output_indices
            ),
            same_as_output=tuple(
                output_indices.index(tensor) if tensor in output_indices[:place] else None
                for place, tensor in enumerate(output_indices)
            ),
        )

    def _tensors(self, signature: c_void_p, side: str) -> list[_Tensor]:
        number = c_size_t()
        call(f"GetNumSignature{side}s", signature, byref(number))
        return [self._tensor(signature, side, place) for place in range(number.value)]

    def _tensor(self, signature: c_void_p, side: str, place: int) -> _Tensor:
        tensor, index = c_void_p(), c_uint32()
        kind, scale = TensorType(), Quantization()
        call(f"GetSignature{side}TensorByIndex", signature, place, byref(tensor))
        call("GetTensorIndex", tensor, byref(index))
        call("GetRankedTensorType", tensor, byref(kind))
        # Any other status than 0 says that it has not one scale.
        quantized = not library().LiteRtGetPerTensorQuantization(tensor, byref(scale))
        return _Tensor(
            index=index.value,
            dtype=DTYPES.get(kind.element_type, f"type {kind.element_type}"),
            shape=kind.shape,
            quantization=(float(scale.scale), int(scale.zero_point)) if quantized else None,
        )

    def buffer(self, dtype: str, shape: tuple[int, ...]) -> Buffer:
        """New memory for a tensor, zeros at first: to fill or to read it is no call of the engine.

        Args:
            dtype: Of the tensor.
            shape: Of the tensor.
        """
        element_types = {name: number for number, name in DTYPES.items()}
        if dtype not in element_types or any(size < 1 for size in shape):
            raise ProgramError(
                f"the program has a tensor of {dtype} {shape}, expected one of "
                f"{', '.join(element_types)} and fixed sizes; export it anew"
            )
        kind = TensorType(element_type=element_types[dtype])
        kind.layout.rank = len(shape)
        kind.layout.dimensions[: len(shape)] = shape
        memory = _aligned(int(np.prod(shape)) * np.dtype(dtype).itemsize)
        handle = c_void_p()
        with refusals("make a buffer"):
            call(
                "CreateTensorBufferFromHostMemory",
                byref(kind),
                memory.ctypes.data,
                memory.nbytes,
                None,
                byref(handle),
            )
        self._buffers.append(Buffer(memory.view(dtype).reshape(shape), handle))
        return self._buffers[-1]

    def buffers(self, tensors: Sequence[tuple[str, tuple[int, ...]]]) -> list[Buffer]:
        """A new buffer for each ``(dtype, shape)``."""
        return [self.buffer(dtype, shape) for dtype, shape in tensors]

    def bind(
        self, signature: Signature, inputs: Sequence[Buffer]
    ) -> tuple[Callable[[], int], list[Buffer]]:
        """Bind a signature to its input buffers and to output buffers of its own.

        An output that is one of the inputs shares that input's buffer: given another buffer, the
        engine would read the input from there, too, and answer with whatever lies in it.

        Args:
            signature: From ``signatures``.
            inputs: Buffers, possibly outputs of another signature; nothing is copied.

        Returns:
            A function that runs the signature and returns the engine's status, which is 0 for
            success and never is once the engine is closed; and the output buffers.
        """
        outputs: list[Buffer] = []
        for place, (dtype, shape) in enumerate(signature.outputs):
            shared, earlier = signature.same_as_input[place], signature.same_as_output[place]
            if shared is not None:
                outputs.append(inputs[shared])
            elif earlier is not None:
                outputs.append(outputs[earlier])
            else:
                outputs.append(self.buffer(dtype, shape))
        # No line of Python between the caller and the engine: the arguments are made only once.
        run = functools.partial(
            library().LiteRtRunCompiledModel,
            self._compiled,
            c_size_t(signature.index),
            c_size_t(len(inputs)),
            (c_void_p * len(inputs))(*(buffer.handle for buffer in inputs)),
            c_size_t(len(outputs)),
            (c_void_p * len(outputs))(*(buffer.handle for buffer in outputs)),
        )
        return run, outputs

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the program; may be called more than once."""
        self._free()


def _free(buffers: list[Buffer], compiled: c_void_p, model: c_void_p) -> None:
    # Everybody who holds one of these handles finds it empty afterwards.
    for buffer in buffers:
        library().LiteRtDestroyTensorBuffer(buffer.handle)
        buffer.handle.value = None
    for handle, destroy in (
        (compiled, library().LiteRtDestroyCompiledModel),
        (model, library().LiteRtDestroyModel),
    ):
        if handle:
            destroy(handle)
            handle.value = None


def _options(threads: int) -> c_void_p:
    options, processor = c_void_p(), c_void_p()
    call("CreateOptions", byref(options))
    call("SetOptionsHardwareAccelerators", options, PROCESSOR)
    # The engine frees this text itself, so it has to come from the C library.
    system = ctypes.CDLL(None)
    system.strdup.restype = c_void_p
    text = system.strdup(f"num_threads = {threads}\n".encode())
    release = ctypes.cast(system.free, c_void_p)
    call("CreateOpaqueOptions", b"xnnpack", text, release, byref(processor))
    call("AddOpaqueOptions", options, processor)
    return options


def _aligned(size_bytes: int) -> NDArray[np.uint8]:
    # Kernels may read a little past the end of what they are given.
    memory = np.zeros(size_bytes + 2 * _ALIGNMENT_BYTES, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT_BYTES
    return memory[start : start + size_bytes]


@contextlib.contextmanager
def refusals(doing: str) -> Iterator[None]:
    """Quiet while the engine works; its refusal becomes one of our errors."""
    said = Said()
    try:
        with capture_stderr() as said:
            yield
    except OfframpError:
        raise
    except (RuntimeError, ValueError) as error:
        detail = "; ".join(line for line in (*str(error).splitlines(), *said.complaints()) if line)
        raise ProgramError(f"LiteRT could not {doing}: {detail}") from error
