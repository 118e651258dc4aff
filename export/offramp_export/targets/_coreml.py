"""Core ML: one package with a function per stage, or one package per stage."""

from __future__ import annotations

import json
import re
import tempfile
import uuid
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, final

import numpy as np
import torch

from offramp.bundle import ProgramStage, TensorEntry
from offramp.errors import ConversionError, ExportError
from offramp_export._edges import export_stage, run_stages
from offramp_export._first_line import first_line
from offramp_export._quiet import quiet
from offramp_export._require import require
from offramp_export.targets._base import ConvertedProgram, Target
from offramp_export.targets._calibration import choose_calibration_images
from offramp_export.targets._coreml_activations import quantize_activations
from offramp_export.targets._coreml_footprint import read_footprint
from offramp_export.targets._coreml_metadata import describe_model
from offramp_export.targets._coreml_outputs import separate_outputs
from offramp_export.targets._coreml_weights import compress_weights
from offramp_export.targets._mil import SavedProgram

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import nn

    from offramp_export.card import Card
    from offramp_export.footprint import StageFootprint

__all__ = ["CoreML"]

_FOLDER = "coreml"
_DEBUG_FILE = "executorch_debug_handle_mapping.json"  # of no use to a device


_TOLERANCES = {
    "float32": 1e-4,
    "float16": 2e-2,
    "int8": float("inf"),
    "weight_int8": float("inf"),
    "palette8": float("inf"),
    "palette6": float("inf"),
    "palette4": float("inf"),
}


@final
@dataclass(frozen=True, slots=True)
class CoreML(Target):
    """Core ML; the image and the logits are float32, carries float16, or float32 with the rest.

    From iOS 18 (macOS 15) on one package, ``coreml/float16.mlpackage`` or as its precision is
    called, has a function per stage and stores shared weights once. For older systems there is one
    package per stage, ``coreml/float16_stage_0.mlpackage`` and so on.

    Attributes:
        precision: ``float32``, which keeps to the CPU and the GPU. ``float16``. ``int8``: weights
            and activations, ranges measured on calibration images; from iOS 17 on. Or computed in
            float16 with weights in fewer bits: ``weight_int8``, a scale per output channel;
            ``palette8``, ``palette6``, ``palette4``, each weight one of 256, 64 or 16 values of its
            layer, found by k-means. Tensors below 1024 weights stay as they are.
        deployment_target: The oldest system that must run it.
    """

    precision: Literal[
        "float32", "float16", "int8", "weight_int8", "palette8", "palette6", "palette4"
    ] = "float16"
    deployment_target: Literal["iOS16", "iOS17", "iOS18"] = "iOS18"

    def __post_init__(self) -> None:
        if self.precision not in _TOLERANCES:
            raise ExportError(
                f"Core ML has no precision {self.precision!r} here; expected one of "
                f"{', '.join(map(repr, _TOLERANCES))}"
            )
        if self.deployment_target not in ("iOS16", "iOS17", "iOS18"):
            raise ExportError(
                f"Core ML has no deployment target {self.deployment_target!r} here; expected "
                "'iOS16', 'iOS17' or 'iOS18'"
            )
        if self.precision == "int8" and self.deployment_target == "iOS16":
            raise ExportError(
                "Core ML computes with int8 activations from iOS 17 on; ask for 'iOS17' or "
                "'iOS18', or for the precision 'weight_int8'"
            )

    @property
    def runtime(self) -> Literal["coreml"]:
        """``coreml``."""
        return "coreml"

    @property
    def tolerance(self) -> float:
        """1e-4 of the largest logit in float32, 2e-2 in float16; fewer bits go by their labels."""
        return _TOLERANCES[self.precision]

    def convert(
        self,
        stages: Sequence[nn.Module],
        carries: Sequence[Sequence[tuple[int, ...]]],
        calibration_images: NDArray[np.uint8] | None,
    ) -> ConvertedProgram:
        """Convert all stages; see ``Target.convert``."""
        samples: list[list[tuple[torch.Tensor, ...]]] = [[] for _ in stages]
        if self.precision == "int8":
            samples = _samples(stages, choose_calibration_images("coreml/int8", calibration_images))
        with quiet():
            coremltools = require("coremltools")
            models = [
                self._convert_stage(coremltools, stage, index, shapes, samples[index])
                for index, (stage, shapes) in enumerate(zip(stages, carries, strict=True))
            ]
            with tempfile.TemporaryDirectory() as folder:
                packages = _save(
                    coremltools, models, Path(folder, self.precision), self._multi_function
                )
                files = {
                    f"{_FOLDER}/{package.name}/{file.relative_to(package).as_posix()}": _stable(
                        file
                    )
                    for package in packages
                    for file in sorted(package.rglob("*"))
                    if file.is_file() and file.name != _DEBUG_FILE
                }
        return ConvertedProgram(
            files=files,
            stages=tuple(_edges(model.get_spec().description) for model in models),
            exporter={
                **{name: version(name) for name in ("coremltools", "torch")},
                "deployment_target": self.deployment_target,
            },
        )

    def plain(self) -> CoreML:
        """In float16; see ``Target.plain``."""
        return replace(self, precision="float16")

    def describe(self, program: ConvertedProgram, card: Card) -> ConvertedProgram:
        """Fill in what Xcode shows of a model; see ``Target.describe``."""
        files = dict(program.files)
        for path, content in files.items():
            if path.endswith(".mlmodel"):
                of_stage = re.search(r"_stage_(\d+)\.mlpackage/", path)
                first = int(of_stage[1]) if of_stage else 0
                files[path] = describe_model(content, card, first_stage=first)
        return replace(program, files=files)

    def run(self, program: ConvertedProgram, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Evaluate the saved package; see ``Target.run``.

        On systems without Core ML the package is read back from its bytes and computed with torch,
        every result rounded to the type that the package declares.
        """
        with quiet(), tempfile.TemporaryDirectory() as folder:
            for path, content in program.files.items():
                file = Path(folder, path)
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(content)
            names = [f"stage_{index}" for index in range(len(program.stages))]
            stem = Path(folder, _FOLDER, self.precision)
            if self._multi_function:
                saved = [SavedProgram.open(_package(stem))] * len(names)
            else:
                saved = [SavedProgram.open(_package(stem, name)) for name in names]
                names = ["main"] * len(names)
            logits = []
            for image in images:
                carry: tuple[torch.Tensor, ...] = (
                    torch.from_numpy(image[None].astype(np.float32)),
                )
                answers = []
                for model, name in zip(saved, names, strict=True):
                    answer, *handed_on = model.run(name, carry)
                    answers.append(answer.numpy().reshape(-1))
                    carry = tuple(handed_on)
                logits.append(answers)
        return np.array(logits, np.float32).transpose(1, 0, 2)

    def footprint(self, program: ConvertedProgram) -> tuple[StageFootprint, ...]:
        """Weigh the weights; the rest is decided on the device. See ``Target.footprint``."""
        with quiet():
            return read_footprint(program.files, len(program.stages))

    @property
    def _multi_function(self) -> bool:
        return self.deployment_target == "iOS18"

    def _convert_stage(
        self,
        coremltools: Any,
        stage: nn.Module,
        index: int,
        shapes: Sequence[tuple[int, ...]],
        samples: Sequence[tuple[torch.Tensor, ...]],
    ) -> Any:
        kept = np.float32 if self.precision == "float32" else np.float16
        compute = coremltools.precision
        exported = export_stage(stage, index, shapes)
        try:
            with torch.no_grad():
                exported = exported.run_decompositions({})
            outputs = len(exported.graph_signature.user_outputs)
            # A declared output type is what makes the carry fit the next stage's input.
            model = coremltools.convert(
                exported,
                inputs=[
                    coremltools.TensorType(
                        name=f"input_{position}",
                        shape=shape,
                        dtype=np.float32 if index == 0 else kept,
                    )
                    for position, shape in enumerate(shapes)
                ],
                outputs=[
                    coremltools.TensorType(dtype=np.float32 if position == 0 else kept)
                    for position in range(outputs)
                ],
                minimum_deployment_target=getattr(coremltools.target, self.deployment_target),
                compute_precision=compute.FLOAT32 if kept is np.float32 else compute.FLOAT16,
                skip_model_load=True,
            )
            if self.precision == "int8":
                model = quantize_activations(model, samples)
            model = compress_weights(model, self.precision)
        except Exception as error:
            raise ConversionError(
                f"Core ML's converter refused stage {index} ({type(stage).__name__}): "
                f"{first_line(error)}; replace the operator it names, or leave Core ML out of the "
                "targets",
                stage=index,
            ) from error
        return separate_outputs(model)


def _samples(
    stages: Sequence[nn.Module], images: NDArray[np.uint8]
) -> list[list[tuple[torch.Tensor, ...]]]:
    """What each stage is called with, per image."""
    samples: list[list[tuple[torch.Tensor, ...]]] = [[] for _ in stages]
    for image in images:
        carry: tuple[torch.Tensor, ...] = (torch.from_numpy(image[None].astype(np.float32)),)
        for index, output in enumerate(run_stages(stages, carry[0])):
            samples[index].append(carry)
            carry = output[1:]
    return samples


def _package(stem: Path, stage: str | None = None) -> Path:
    return stem.with_name(f"{stem.name}{f'_{stage}' if stage else ''}.mlpackage")


def _save(coremltools: Any, models: Sequence[Any], stem: Path, merge: bool) -> list[Path]:
    parts = []
    for index, model in enumerate(models):
        path = _package(stem, f"stage_{index}")
        model.save(str(path))
        parts.append(path)
    if not merge:
        return parts
    descriptor = coremltools.utils.MultiFunctionDescriptor()
    for index, path in enumerate(parts):
        descriptor.add_function(
            str(path), src_function_name="main", target_function_name=f"stage_{index}"
        )
    descriptor.default_function_name = "stage_0"
    merged = _package(stem)
    coremltools.utils.save_multifunction(descriptor, str(merged))
    return [merged]


def _stable(file: Path) -> bytes:
    """The content of a file of a package, the same for the same stages."""
    content = file.read_bytes()
    if file.name == "Manifest.json":
        # Random identifiers at each save; any unique ones will do, so they are made from the paths.
        # A program without large weights lists an empty folder for them, which no bundle can hold.
        data = json.loads(content)
        items = {
            identifier: entry
            for identifier, entry in data["itemInfoEntries"].items()
            if any(path.is_file() for path in _below(file.parent / "Data" / entry["path"]))
        }
        names = {
            identifier: str(uuid.uuid5(uuid.NAMESPACE_URL, entry["path"])).upper()
            for identifier, entry in items.items()
        }
        data["itemInfoEntries"] = {
            names[identifier]: items[identifier]
            for identifier in sorted(names, key=names.__getitem__)
        }
        data["rootModelIdentifier"] = names[data["rootModelIdentifier"]]
        return json.dumps(data, indent=2, sort_keys=True).encode()
    if file.suffix == ".mlmodel":
        specification = require("coremltools").proto.Model_pb2.Model.FromString(content)
        stable: bytes = specification.SerializeToString(deterministic=True)
        return stable
    return content


def _below(path: Path) -> list[Path]:
    return [path, *path.rglob("*")]


def _edges(description: Any) -> ProgramStage:
    """Shapes and types as the package declares them."""
    dtypes: dict[int, Any] = {65568: "float32", 65552: "float16"}
    inputs, outputs = (
        tuple(
            TensorEntry(
                shape=tuple(int(size) for size in feature.type.multiArrayType.shape),
                dtype=dtypes[feature.type.multiArrayType.dataType],
            )
            for feature in features
        )
        for features in (description.input, description.output)
    )
    return ProgramStage(inputs=inputs, outputs=outputs)
