"""ExecuTorch programs without torch, through a small compiled library of ours."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any, final

import numpy as np

from offramp.errors import ProgramError
from offramp.runtimes._edges import Edge
from offramp.runtimes._engine import Buffers, Engine, StageEdges, check_threads, refusals
from offramp.runtimes._executorch_pool import take_pool
from offramp.runtimes._shim import executorch_version

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from offramp.bundle import ProgramStage, TensorEntry

__all__ = ["ShimEngine", "load_shim"]

_ALIGNMENT_BYTES = 64


@final
class ShimEngine(Engine):
    """An ExecuTorch program in the C++ libraries of the executorch package.

    The program is verified as strictly as ExecuTorch can and held, with its carries, by the shim.

    Args:
        program: The ``.pte`` file's content, whose SHA-256 has been checked.
        library: The shim, from ``find_shim`` or ``build_shim``.
        threads: How many threads the kernels may use. Programs with more than one share the pool
            of the process, so they must agree on the number.

    Raises:
        ProgramError: ExecuTorch refused, or the shim cannot be loaded.
    """

    def __init__(self, program: bytes, library: Path, *, threads: int = 1) -> None:
        check_threads(threads)
        self._handle: int | None = None
        self._kept: list[NDArray[Any]] = []
        self._leave_pool: Callable[[], None] | None = None
        # Loading the libraries and the first program looks at the processor, and says so.
        with refusals("ExecuTorch", "load the program"):
            self._library = load_shim(library)
            if threads > 1:
                self._leave_pool = take_pool(
                    threads, self._library.offramp_pool_threads, self._library.offramp_resize_pool
                )
            self._handle = self._library.offramp_open(program, len(program), threads == 1)
            if not self._handle:
                self.close()
                raise self._failed("load the program")

    @property
    def name(self) -> str:
        """The package, its version, and that it is the shim."""
        return f"executorch {executorch_version()} (shim)"

    def edges(self) -> Mapping[str, StageEdges]:
        """The edges of every method, by its name."""
        length = self._library.offramp_describe(self._handle, None, 0)
        if not length:
            raise self._failed("read the program's methods")
        text = ctypes.create_string_buffer(length + 1)
        self._library.offramp_describe(self._handle, text, length + 1)
        found: dict[str, tuple[list[Edge], list[Edge]]] = {}
        for line in text.value.decode().splitlines():
            method, side, dtype, shape, order = line.split("\t")
            sizes = tuple(int(size) for size in shape.split(",") if size)
            if order != ",".join(map(str, range(len(sizes)))):
                raise ProgramError(
                    f"an {side} of {method} has its axes in the order {order} in memory, expected "
                    "one after the other; export the bundle anew"
                )
            inputs, outputs = found.setdefault(method, ([], []))
            (inputs if side == "input" else outputs).append(Edge(dtype, sizes))
        return {
            method: StageEdges(tuple(inputs), tuple(outputs))
            for method, (inputs, outputs) in found.items()
        }

    def bind(self, stages: tuple[ProgramStage, ...]) -> Buffers:
        """Load all methods, and hand the memory of image and logits over."""
        image = _array(stages[0].inputs[0])
        logits = [_array(stage.outputs[0]) for stage in stages]
        pointers = (ctypes.c_void_p * len(stages))(*(array.ctypes.data for array in logits))
        # The shim writes there until it is closed.
        self._kept = [image, *logits]
        with refusals("ExecuTorch", "load the stages"):
            if not self._library.offramp_bind(
                self._handle, len(stages), image.ctypes.data, pointers
            ):
                raise self._failed("load the stages")
        return Buffers(image[0], tuple(logits))

    def run(self, stage: int) -> None:
        """Run one stage."""
        if not self._library.offramp_run(self._handle, stage):
            raise self._failed(f"run stage {stage}")

    def close(self) -> None:
        """Free the program."""
        handle, self._handle = self._handle, None
        if handle:
            self._library.offramp_close(handle)
        self._kept = []
        leave, self._leave_pool = self._leave_pool, None
        if leave is not None:
            leave()

    def __del__(self) -> None:
        # The memory is not Python's; nobody else would free it.
        if hasattr(self, "_leave_pool"):
            self.close()

    def _failed(self, doing: str) -> ProgramError:
        return ProgramError(
            f"ExecuTorch could not {doing}: {self._library.offramp_error().decode()}"
        )


def load_shim(path: Path) -> ctypes.CDLL:
    """Load the shim and declare its functions.

    Raises:
        ProgramError: The system's loader refused it.
    """
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise ProgramError(
            f"the ExecuTorch shim {path} cannot be loaded: {error}; build it anew with "
            "`offramp build-shim --force`"
        ) from error
    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    for name, result, arguments in (
        ("offramp_error", ctypes.c_char_p, ()),
        ("offramp_open", pointer, (ctypes.c_char_p, size, ctypes.c_int)),
        ("offramp_describe", size, (pointer, ctypes.c_char_p, size)),
        ("offramp_bind", ctypes.c_int, (pointer, size, pointer, ctypes.POINTER(pointer))),
        ("offramp_run", ctypes.c_int, (pointer, size)),
        ("offramp_close", None, (pointer,)),
        ("offramp_pool_threads", size, ()),
        ("offramp_resize_pool", ctypes.c_int, (size,)),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


def _array(entry: TensorEntry) -> NDArray[Any]:
    """Memory as kernels want it: aligned, and a little of it beyond the end."""
    if entry.dtype != "float32":
        raise ProgramError(
            f"the program takes or gives {entry.dtype}, expected float32 at the edges of an "
            "ExecuTorch program; export it anew"
        )
    size_bytes = int(np.prod(entry.shape)) * np.dtype(entry.dtype).itemsize
    memory = np.zeros(size_bytes + 2 * _ALIGNMENT_BYTES, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT_BYTES
    return memory[start : start + size_bytes].view(entry.dtype).reshape(entry.shape)
