"""ExecuTorch: one ``.pte`` file, one method per stage."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal, final

import numpy as np
import torch
from torch import Tensor, nn

from offramp.bundle import ProgramStage, TensorEntry
from offramp.errors import ConversionError, ExportError
from offramp_export._edges import channel_last, export_stage
from offramp_export._equalization import equalize
from offramp_export._first_line import first_line
from offramp_export._preprocess import quantizable_preprocess
from offramp_export._quiet import quiet
from offramp_export._require import require
from offramp_export.targets._base import ConvertedProgram, Target
from offramp_export.targets._calibration import choose_calibration_images
from offramp_export.targets._delegation import check_share
from offramp_export.targets._executorch_delegation import read_delegation, require_delegation
from offramp_export.targets._executorch_footprint import read_footprint
from offramp_export.targets._executorch_int8 import quantize_programs
from offramp_export.targets._executorch_layout import ChannelsLastEdges, without_transposes
from offramp_export.targets._executorch_metadata import describe_program
from offramp_export.targets._executorch_pooling import fix_windows
from offramp_export.targets._executorch_subsample import without_strided_slices

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from offramp_export.card import Card
    from offramp_export.footprint import StageFootprint

__all__ = ["ExecuTorch"]

_DTYPES: dict[torch.dtype, Literal["float32", "int8"]] = {
    torch.float32: "float32",
    torch.int8: "int8",
}


@final
@dataclass(frozen=True, slots=True)
class ExecuTorch(Target):
    """ExecuTorch on the CPU; maps cross channel-last, as XNNPACK computes them.

    Attributes:
        precision: ``float32``; or ``int8``, static: weights, with a scale per output channel, and
            activations, ranges measured on calibration images. The edges of its stages stay
            float32.
        kernels: ``xnnpack``; or ``portable``, which run anywhere, many times slower, and only in
            float32.
        delegated_share: Of the operators of each stage, what XNNPACK must take at least; converting
            fails if it takes less, or leaves a convolution.
    """

    precision: Literal["float32", "int8"] = "float32"
    kernels: Literal["xnnpack", "portable"] = "xnnpack"
    delegated_share: float = 0.0

    def __post_init__(self) -> None:
        if self.precision not in ("float32", "int8"):
            raise ExportError(
                f"ExecuTorch has no precision {self.precision!r}; expected 'float32' or 'int8'"
            )
        if self.kernels not in ("xnnpack", "portable"):
            raise ExportError(
                f"ExecuTorch has no kernels {self.kernels!r}; expected 'xnnpack' or 'portable'"
            )
        check_share(self.delegated_share)
        if self.kernels == "portable" and self.delegated_share:
            raise ExportError("portable kernels delegate nothing; leave delegated_share at 0")
        if (self.precision, self.kernels) == ("int8", "portable"):
            raise ExportError(
                "ExecuTorch computes int8 in XNNPACK alone; choose kernels='xnnpack', or float32"
            )

    @property
    def runtime(self) -> Literal["executorch"]:
        """``executorch``."""
        return "executorch"

    @property
    def tolerance(self) -> float:
        """1e-4 of the largest logit in float32; int8 is judged by its labels."""
        return 1e-4 if self.precision == "float32" else float("inf")

    def convert(
        self,
        stages: Sequence[nn.Module],
        carries: Sequence[Sequence[tuple[int, ...]]],
        calibration_images: NDArray[np.uint8] | None,
    ) -> ConvertedProgram:
        """Convert all stages into one file; see ``Target.convert``."""
        with quiet():
            exir = require("executorch.exir")
            from executorch.backends.xnnpack.partition.xnnpack_partitioner import (
                XnnpackPartitioner,
            )
            from executorch.exir.passes import MemoryPlanningPass

            # Stages read what the one before them made, where it is, and the image likewise.
            planning = MemoryPlanningPass(alloc_graph_input=False)
            if self.precision == "int8":
                images = choose_calibration_images("executorch/int8", calibration_images)
                stages = equalize(stages, images)
                stages = [quantizable_preprocess(stages[0]), *stages[1:]]
            exported = {
                f"stage_{index}": export_stage(
                    ChannelsLastEdges(stage, reads_image=index == 0).eval(),
                    index,
                    [channel_last(shape) if index else shape for shape in shapes],
                )
                for index, (stage, shapes) in enumerate(zip(stages, carries, strict=True))
            }
            for program in exported.values():
                fix_windows(program)
            packages = ["executorch", "torch"]
            if self.precision == "float32" and self.kernels == "xnnpack":
                exported = {
                    name: without_strided_slices(program) for name, program in exported.items()
                }
            if self.precision == "int8":
                exported = quantize_programs(exported, images)
                packages.append("torchao")
            edges = tuple(_edges(program) for program in exported.values())
            try:
                with without_transposes():
                    lowered = exir.to_edge_transform_and_lower(
                        exported,
                        partitioner=[XnnpackPartitioner()] if self.kernels == "xnnpack" else [],
                    )
                # The next step turns what is left into operators of another name.
                delegation = tuple(
                    read_delegation(lowered.exported_program(name)) for name in exported
                )
                # Only here is an operator found that has no form with memory for its result.
                made = lowered.to_executorch(
                    exir.ExecutorchBackendConfig(memory_planning_pass=planning)
                )
            except Exception as error:
                raise ConversionError(
                    f"ExecuTorch's converter refused the stages: {first_line(error)}; replace the "
                    "operator it names, or leave ExecuTorch out of the targets"
                ) from error
            _require_kernels(made.executorch_program)
            content = bytes(made.buffer)
            for index, found in enumerate(delegation if self.kernels == "xnnpack" else ()):
                require_delegation(found, index, self.delegated_share)
        return ConvertedProgram(
            files={f"executorch/{self.precision}.pte": content},
            stages=edges,
            exporter={
                **{name: version(name) for name in packages},
                "kernels": self.kernels,
                **{
                    f"delegated_{name}": f"{sum(found.delegated.values())} operators, "
                    f"{sum(found.left.values())} left"
                    for name, found in zip(exported, delegation, strict=True)
                },
            },
            delegation=delegation,
        )

    def plain(self) -> ExecuTorch:
        """In float32; see ``Target.plain``."""
        return ExecuTorch(kernels=self.kernels)

    def describe(self, program: ConvertedProgram, card: Card) -> ConvertedProgram:
        """Add methods that return constants, such as ``get_labels``; see ``Target.describe``."""
        files = {path: describe_program(content, card) for path, content in program.files.items()}
        return replace(program, files=files)

    def run(self, program: ConvertedProgram, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Run the file in ExecuTorch's Python runtime; see ``Target.run``."""
        (content,) = program.files.values()
        logits = []
        with quiet():
            runtime = require("executorch.runtime")
            loaded = runtime.Runtime.get().load_program(
                content, verification=runtime.Verification.InternalConsistency
            )
            methods = [loaded.load_method(f"stage_{index}") for index in range(len(program.stages))]
            for image in images:
                carry: list[Tensor] = [torch.from_numpy(image[None].astype(np.float32))]
                answers = []
                for index, method in enumerate(methods):
                    outputs = _execute(method, carry, index)
                    answers.append(outputs[0].numpy().reshape(-1).copy())
                    carry = list(outputs[1:])
                    _require_dense(carry, index)
                logits.append(answers)
        return np.array(logits, np.float32).transpose(1, 0, 2)

    def footprint(self, program: ConvertedProgram) -> tuple[StageFootprint, ...]:
        """Read the file's memory plans and XNNPACK's graphs; see ``Target.footprint``."""
        (content,) = program.files.values()
        with quiet():
            return read_footprint(content, program.delegation)


def _require_kernels(program: Any) -> None:
    """An operator may have a form that its runtime has no kernel for, such as a sort."""
    runtime = require("executorch.runtime").Runtime.get()
    known = runtime.operator_registry.operator_names
    for plan in program.execution_plan:
        for operator in plan.operators:
            name = f"{operator.name}.{operator.overload}".removesuffix(".")
            if name not in known:
                raise ConversionError(
                    f"ExecuTorch's runtime has no kernel for {name}; replace the operator it "
                    "names, or leave ExecuTorch out of the targets"
                )


def _execute(method: Any, carry: Sequence[Tensor], index: int) -> list[Tensor]:
    try:
        outputs: list[Tensor] = method.execute(carry)
    except RuntimeError as error:
        raise ExportError(
            f"ExecuTorch converted stage {index} but cannot run it: {error}; convert its layers "
            "one by one to find the operator, or leave ExecuTorch out of the targets"
        ) from error
    return outputs


def _edges(program: Any) -> ProgramStage:
    """Shapes and types as the exported program has them."""
    entries: dict[str, TensorEntry] = {}
    for node in program.graph.nodes:
        value = node.meta.get("val")
        if isinstance(value, Tensor):
            dtype = _DTYPES.get(value.dtype)
            if dtype is not None:
                entries[node.name] = TensorEntry(shape=tuple(value.shape), dtype=dtype)
            if node.name in program.graph_signature.user_outputs and not value.is_contiguous():
                raise ExportError(
                    f"ExecuTorch: output {node.name} has strides {value.stride()}, expected a "
                    "contiguous tensor; add .contiguous() where the stage returns it"
                )
    signature = program.graph_signature
    passed = set(signature.user_inputs) & set(signature.user_outputs)
    if passed:
        raise ExportError(
            f"ExecuTorch: a stage hands on its input {min(passed)} itself, expected a tensor of "
            "its own; add .clone() where the stage returns it"
        )
    inputs, outputs = (
        tuple(entries[name] for name in names)
        for names in (signature.user_inputs, signature.user_outputs)
    )
    return ProgramStage(inputs=inputs, outputs=outputs)


def _require_dense(carry: Sequence[Tensor], index: int) -> None:
    for position, value in enumerate(carry):
        if not value.is_contiguous():
            raise ExportError(
                f"ExecuTorch: stage {index} returned carry {position} with strides "
                f"{value.stride()}, expected a contiguous tensor"
            )
