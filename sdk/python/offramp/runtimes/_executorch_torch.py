"""ExecuTorch programs through its Python package, which loads torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

import numpy as np

from offramp._optional import require
from offramp.errors import ProgramError
from offramp.runtimes._edges import Edge
from offramp.runtimes._engine import Buffers, Engine, StageEdges, check_threads, refusals
from offramp.runtimes._executorch_pool import take_pool
from offramp.runtimes._shim import executorch_version

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from offramp.bundle import ProgramStage

__all__ = ["TorchEngine"]

_DTYPES = {6: "float32", 5: "float16", 1: "int8", 0: "uint8"}  # numbers of torch's ScalarType


@final
class TorchEngine(Engine):
    """An ExecuTorch program in ExecuTorch's Python package.

    For machines where the shim cannot be built: importing torch takes seconds and some 300 MB.

    Args:
        program: The ``.pte`` file's content, whose SHA-256 has been checked.
        threads: How many threads the kernels may use. All programs of the process share one pool,
            so they must agree on the number.

    Raises:
        ProgramError: ExecuTorch refused.
        MissingExtraError: executorch or torch is not installed.
    """

    def __init__(self, program: bytes, *, threads: int = 1) -> None:
        check_threads(threads)
        self._leave_pool: Callable[[], None] | None = None
        self._methods: list[Any] = []
        self._outputs: list[Any] = []
        self._image: Any = None
        self._logits: list[NDArray[Any]] = []
        with refusals("ExecuTorch", "load the program"):
            self._torch: Any = require("torch", extra="executorch")
            library = require("executorch.extension.pybindings.portable_lib", extra="executorch")
            runtime = require("executorch.runtime", extra="executorch")
            self._leave_pool = take_pool(
                threads, library._threadpool_get_thread_count, library._unsafe_reset_threadpool
            )
            try:
                self._program: Any = runtime.Runtime.get().load_program(
                    program, verification=runtime.Verification.InternalConsistency
                )
            except BaseException:
                self.close()
                raise

    @property
    def name(self) -> str:
        """The package, its version, and that it runs in torch."""
        return f"executorch {executorch_version()} (torch)"

    def edges(self) -> Mapping[str, StageEdges]:
        """The edges of every stage's method, by its name."""
        found = {}
        with refusals("ExecuTorch", "read the program's methods"):
            # Others, such as get_labels, return constants to apps, and are never run here.
            names = [name for name in self._program.method_names if name.startswith("stage_")]
            for name in sorted(names):
                meta = self._program.metadata(name)
                found[name] = StageEdges(
                    tuple(_edge(meta.input_tensor_meta(i)) for i in range(meta.num_inputs())),
                    tuple(_edge(meta.output_tensor_meta(i)) for i in range(meta.num_outputs())),
                )
        return found

    def bind(self, stages: tuple[ProgramStage, ...]) -> Buffers:
        """Load all methods."""
        with refusals("ExecuTorch", "load the stages"):
            self._methods = [
                self._program.load_method(f"stage_{place}") for place in range(len(stages))
            ]
        entry = stages[0].inputs[0]
        if entry.dtype != "float32":
            raise ProgramError(
                f"the program takes {entry.dtype}, expected float32 at the edges of an ExecuTorch "
                "program; export it anew"
            )
        image = np.zeros(entry.shape, np.float32)
        self._image = self._torch.from_numpy(image)
        self._logits = [np.zeros(stage.outputs[0].shape, np.float32) for stage in stages]
        return Buffers(image[0], tuple(self._logits))

    def run(self, stage: int) -> None:
        """Run one stage."""
        inputs = [self._image] if stage == 0 else self._outputs
        try:
            logits, *self._outputs = self._methods[stage].execute(inputs)
        except (RuntimeError, ValueError) as error:
            raise ProgramError(f"ExecuTorch could not run stage {stage}: {error}") from error
        np.copyto(self._logits[stage], logits.numpy())

    def close(self) -> None:
        """Let go of the program."""
        self._methods, self._outputs, self._program = [], [], None
        leave, self._leave_pool = self._leave_pool, None
        if leave is not None:
            leave()

    def __del__(self) -> None:
        if hasattr(self, "_leave_pool"):
            self.close()


def _edge(meta: Any) -> Edge:
    return Edge(_DTYPES.get(meta.dtype(), "another type"), tuple(meta.sizes()))
