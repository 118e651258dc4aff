"""Small real programs and bundles for the tests of the SDK."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import numpy as np
import pytest

from offramp.bundle import (
    Bundle,
    InputSpec,
    Manifest,
    Policy,
    ProgramEntry,
    ProgramStage,
    Provenance,
    Quantization,
    StageEntry,
    TensorEntry,
    describe_file,
    encode_vectors,
    write_bundle,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

LABELS = ("ant", "bee", "cat", "dog", "elk")
_PRECISIONS: tuple[Literal["float32", "int8"], ...] = ("float32", "int8")


@dataclass(frozen=True)
class RealPrograms:
    """Two LiteRT programs of one three-stage network, and what other engines make of it.

    Attributes:
        data: Precision -> the ``.tflite`` file's content.
        stages: Precision -> the edges of its stages.
        images: ``(8, 12, 12, 3)`` uint8.
        logits: Precision -> ``(3, 8, 5)`` float32.
    """

    data: dict[str, bytes]
    stages: dict[str, tuple[ProgramStage, ...]]
    images: NDArray[np.uint8]
    logits: dict[str, NDArray[np.float32]]


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> RealPrograms:
    """Converted once per session, in a process of its own."""
    folder = tmp_path_factory.mktemp("programs")
    subprocess.run(
        [sys.executable, Path(__file__).with_name("real_programs.py"), folder],
        check=True,
        capture_output=True,
        timeout=300,
        env={**os.environ, "LITERT_TORCH_SHOW_PROGRESS": "n"},
    )
    with np.load(folder / "answers.npz") as answers:
        images = answers["images"]
        logits = {str(name): answers[name] for name in _PRECISIONS}
    data = {str(name): (folder / f"{name}.tflite").read_bytes() for name in _PRECISIONS}
    return RealPrograms(data, {name: _stages(data[name]) for name in _PRECISIONS}, images, logits)


def _stages(program: bytes) -> tuple[ProgramStage, ...]:
    """The edges as the classic interpreter tells them: another reader than the one under test."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=program, num_threads=1)
    stages = []
    for place in range(3):
        runner = interpreter.get_signature_runner(f"stage_{place}")
        inputs, outputs = runner.get_input_details(), runner.get_output_details()
        stages.append(
            ProgramStage(
                inputs=tuple(_tensor(inputs[name]) for name in sorted(inputs)),
                outputs=tuple(_tensor(outputs[name]) for name in sorted(outputs)),
            )
        )
    return tuple(stages)


def _tensor(details: dict[str, Any]) -> TensorEntry:
    parameters = details["quantization_parameters"]
    quantization = None
    if len(parameters["scales"]):
        quantization = Quantization(
            scale=float(parameters["scales"][0]), zero_point=int(parameters["zero_points"][0])
        )
    dtype: Any = np.dtype(details["dtype"]).name
    shape = tuple(details["shape"].tolist())
    return TensorEntry(shape=shape, dtype=dtype, quantization=quantization)


@pytest.fixture(scope="session")
def bundle_parts(programs: RealPrograms) -> tuple[Manifest, dict[str, bytes]]:
    """A manifest with both programs, and its files."""
    files = {f"litert/{name}.tflite": programs.data[name] for name in _PRECISIONS}
    files["vectors.npz"] = encode_vectors(
        programs.images, {f"litert/{name}": programs.logits[name] for name in _PRECISIONS}
    )
    last = len(programs.stages["int8"]) - 1
    manifest = Manifest(
        format_version=1,
        labels=LABELS,
        input=InputSpec(height=12, width=12),
        stages=tuple(
            StageEntry(
                name=f"stage_{place}",
                multiply_adds=1000,
                parameters=100,
                carry_shapes=() if place == last else ((1, 6, 6, 8), (1, 6)),
            )
            for place in range(last + 1)
        ),
        programs=tuple(
            ProgramEntry(
                runtime="litert",
                precision=name,
                files=(describe_file(f"litert/{name}.tflite", programs.data[name]),),
                stages=programs.stages[name],
            )
            for name in _PRECISIONS
        ),
        vectors=describe_file("vectors.npz", files["vectors.npz"]),
        provenance=Provenance(created_by="offramp tests"),
    )
    return manifest, files


@pytest.fixture
def bundle(tmp_path: Path, bundle_parts: tuple[Manifest, dict[str, bytes]]) -> Bundle:
    """A sound bundle in a folder of this test's own."""
    return write_bundle(tmp_path / "bundle", *bundle_parts)


@pytest.fixture
def make_policy() -> Callable[..., Policy]:
    """Policies for three exits, with whatever a test wants to be different."""

    def make(**changes: Any) -> Policy:
        values: dict[str, Any] = {
            "name": "default",
            "program": "litert/int8",
            "signal": "max_probability",
            "temperatures": (1.0, 1.0, 1.0),
            "thresholds": (0.5, 0.5, 0.0),
            "enabled": (True, True, True),
        }
        return Policy(**{**values, **changes})

    return make


@pytest.fixture(scope="session")
def executorch_bundle(
    bundle_parts: tuple[Manifest, dict[str, bytes]],
    programs: RealPrograms,
    tmp_path_factory: pytest.TempPathFactory,
) -> Bundle:
    """The bundle of all tests, and the same network as ``executorch/float32``."""
    folder = tmp_path_factory.mktemp("executorch")
    subprocess.run(
        [sys.executable, Path(__file__).with_name("real_programs.py"), folder, "executorch"],
        check=True,
        capture_output=True,
        timeout=300,
    )
    data = (folder / "float32.pte").read_bytes()
    stages = msgspec.json.decode(
        (folder / "stages.json").read_bytes(), type=tuple[ProgramStage, ...]
    )
    with np.load(folder / "answers.npz") as answers:
        np.testing.assert_array_equal(answers["images"], programs.images)
        np.testing.assert_allclose(answers["logits"], programs.logits["float32"], atol=1e-5)
        logits = {f"litert/{name}": programs.logits[name] for name in _PRECISIONS}
        logits["executorch/float32"] = answers["logits"]
    manifest, files = bundle_parts
    files = {**files, "executorch/float32.pte": data}
    files["vectors.npz"] = encode_vectors(programs.images, logits)
    entry = ProgramEntry(
        runtime="executorch",
        precision="float32",
        files=(describe_file("executorch/float32.pte", data),),
        stages=stages,
    )
    manifest = msgspec.structs.replace(
        manifest,
        programs=(*manifest.programs, entry),
        vectors=describe_file("vectors.npz", files["vectors.npz"]),
    )
    return write_bundle(folder / "bundle", manifest, files)
