"""From a user's own early-exit network to a bundle that the SDK runs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import pytest
import torch

from offramp.bundle import Bundle, InputSpec, Policy, ProgramStage, TensorEntry
from offramp.errors import BundleError, DataError, ExportError, ExportMismatchError, ShapeError
from offramp.runtimes import open_runtime
from offramp_export import export, write_report
from offramp_export._edges import prepare_stages, run_stages
from offramp_export.targets import ConvertedProgram, LiteRT, Target

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import nn

LABELS = ("ant", "bee", "cow")


@dataclass(frozen=True)
class _Echo(Target):
    """Answers with torch itself, plus an error."""

    stages: tuple[nn.Module, ...]
    error: float = 0.0

    @property
    def runtime(self) -> Literal["executorch"]:
        return "executorch"

    @property
    def precision(self) -> Literal["float32"]:
        return "float32"

    @property
    def tolerance(self) -> float:
        return 1e-4

    def convert(
        self,
        stages: Sequence[nn.Module],
        carries: Sequence[Sequence[tuple[int, ...]]],
        calibration_images: NDArray[np.uint8] | None,
    ) -> ConvertedProgram:
        shapes = [[TensorEntry(shape=shape, dtype="float32") for shape in row] for row in carries]
        logits = TensorEntry(shape=(1, 3), dtype="float32")
        following = [*shapes[1:], []]
        return ConvertedProgram(
            files={"executorch/float32.pte": b"content"},
            stages=tuple(
                ProgramStage(inputs=tuple(row), outputs=(logits, *after))
                for row, after in zip(shapes, following, strict=True)
            ),
            exporter={},
        )

    def run(self, program: ConvertedProgram, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        outputs = run_stages(self.stages, torch.from_numpy(images.astype(np.float32)))
        logits = np.stack([output[0].numpy() for output in outputs])
        logits[1] += self.error * np.abs(logits[1]).max()
        return logits.astype(np.float32)


@pytest.fixture
def images(rng: np.random.Generator) -> NDArray[np.uint8]:
    return rng.integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)


def _export(
    stages: Sequence[nn.Module], images: NDArray[np.uint8], path: Path, **more: object
) -> Bundle:
    arguments = {"targets": [_Echo(prepare_stages(stages))], "labels": LABELS} | more
    return export(stages, images, path=path, **arguments).bundle  # type: ignore[arg-type]


def test_a_users_network_runs_in_the_sdk(
    branchy: list[nn.Module], images: NDArray[np.uint8], tmp_path: Path
) -> None:
    seen: list[tuple[int, int]] = []
    result = export(
        branchy,
        images,
        [LiteRT()],
        path=tmp_path / "bundle",
        labels=LABELS,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(0, 1), (1, 1)]
    assert branchy[0].training
    bundle = Bundle.open(tmp_path / "bundle")
    assert [stage.carry_shapes for stage in bundle.manifest.stages] == [((1, 4, 4, 8),), ()]
    assert bundle.manifest.stages[0].multiply_adds == 4 * 4 * 8 * 3 * 9 + 8 * 3
    assert bundle.manifest.labels == LABELS
    recorded = bundle.vectors().logits["litert/float32"]
    expected = _Echo(prepare_stages(branchy)).run(result.bundle, images)  # type: ignore[arg-type]
    np.testing.assert_allclose(recorded, expected, atol=1e-5)
    with open_runtime(bundle) as runtime:
        for number, image in enumerate(images):
            runtime.start(image)
            for exit in range(2):
                np.testing.assert_allclose(runtime.run(exit), recorded[exit, number], atol=1e-6)


@dataclass(frozen=True)
class _Crash(_Echo):
    def run(self, program: ConvertedProgram, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        raise RuntimeError("method->execute() failed with error 0x12")


def test_a_program_that_does_not_run_is_an_export_error(
    branchy: list[nn.Module], images: NDArray[np.uint8], tmp_path: Path
) -> None:
    crash = _Crash(prepare_stages(branchy))
    with pytest.raises(ExportError, match=r"executorch/float32 was converted.*0x12; replace"):
        _export(branchy, images, tmp_path / "bundle", targets=[crash])
    assert not (tmp_path / "bundle").exists()


def test_nothing_is_written_when_a_program_disagrees(
    branchy: list[nn.Module], images: NDArray[np.uint8], tmp_path: Path
) -> None:
    liar = _Echo(prepare_stages(branchy), error=0.01)
    with pytest.raises(ExportMismatchError, match="the logits of exit 1"):
        _export(branchy, images, tmp_path / "bundle", targets=[liar])
    assert list(tmp_path.iterdir()) == []
    slight = _Echo(prepare_stages(branchy), error=1e-5)
    _export(branchy, images, tmp_path / "bundle", targets=[slight])


def test_an_existing_bundle_is_kept_unless_told(
    branchy: list[nn.Module], images: NDArray[np.uint8], tmp_path: Path
) -> None:
    _export(branchy, images, tmp_path / "bundle")
    with pytest.raises(BundleError, match="exists"):
        _export(branchy, images, tmp_path / "bundle")
    fresh = _export(branchy, images[:2], tmp_path / "bundle", overwrite=True)
    assert len(fresh.vectors().images) == 2


def test_what_cannot_be_exported_is_refused(
    branchy: list[nn.Module], images: NDArray[np.uint8], tmp_path: Path
) -> None:
    path = tmp_path / "bundle"
    with pytest.raises(ExportError, match="got 2 labels for 3 classes"):
        _export(branchy, images, path, labels=("a", "b"))
    with pytest.raises(ExportError, match="no targets"):
        _export(branchy, images, path, targets=[])
    with pytest.raises(ExportError, match="litert/float32 is given twice"):
        _export(branchy, images, path, targets=[LiteRT(), LiteRT()])
    with pytest.raises(ShapeError, match="example is float32"):
        _export(branchy, images.astype(np.float32), path)
    with pytest.raises(ShapeError, match="calibration_images is uint8"):
        _export(branchy, images, path, calibration_images=images[:, :4])
    with pytest.raises(ShapeError, match="input_spec asks for 16×16"):
        _export(branchy, images, path, input_spec=InputSpec(height=16, width=16))
    with pytest.raises(ExportError, match="given 5 calibration images"):
        _export(branchy, images, path, targets=[LiteRT("int8")], calibration_images=images)
    with pytest.raises(ExportError, match="given 0 calibration images"):
        _export(branchy, images, path, targets=[LiteRT("int8")])
    assert list(tmp_path.iterdir()) == []


def test_the_report_holds_all_that_was_found_out(
    branchy: list[nn.Module], images: NDArray[np.uint8], tmp_path: Path
) -> None:
    policy = Policy(
        name="careful",
        program="litert/float32",
        signal="max_probability",
        temperatures=(1.0, 1.0),
        thresholds=(0.4, 0.0),
        enabled=(True, True),
    )
    labels = np.array([0, 1, 2, 0, 1])
    result = export(
        branchy,
        images,
        [LiteRT(), _Echo(prepare_stages(branchy))],
        path=tmp_path / "bundle",
        labels=LABELS,
        example_labels=labels,
        policy=policy,
    )
    write_report(tmp_path / "report.json", result.report)
    data = json.loads((tmp_path / "report.json").read_text())
    assert data == result.report.as_data()
    assert (data["format_version"], data["input_size"]) == (1, [8, 8])
    entries = result.bundle.manifest.stages
    assert [stage["multiply_adds"] for stage in data["stages"]] == [
        entry.multiply_adds for entry in entries
    ]
    real, echo = data["programs"]
    (file,) = result.bundle.program("litert/float32").files
    assert (real["program"], real["size_bytes"]) == ("litert/float32", file.size_bytes)
    assert real["exporter"] == result.bundle.program("litert/float32").exporter
    assert real["parity"]["policy"] == "careful"
    assert real["parity"]["policy_agreement"] == 1.0
    recorded = result.bundle.vectors().logits["litert/float32"]
    for exit, found in enumerate(real["parity"]["exits"]):
        assert found["accuracy"] == (recorded[exit].argmax(-1) == labels).mean()
        assert found["accuracy"] == found["torch_accuracy"]
        assert 0 <= found["mean_difference"] <= found["difference"] <= real["parity"]["tolerance"]
    for stage, found in zip(entries, real["stages"], strict=True):
        # Float32, and the fixed rest: shapes, paddings, biases that batch norms leave.
        assert 4 * stage.parameters * 0.9 <= found["weight_bytes"] <= 4 * stage.parameters + 400
        assert found["delegation"]["share"] == 1.0
        assert found["delegation"]["delegated"]["CONV_2D"] == 1
    # A target that cannot tell says nothing.
    assert echo["stages"] == []


def test_labels_and_policies_of_something_else_are_refused_at_once(
    branchy: list[nn.Module], images: NDArray[np.uint8], tmp_path: Path
) -> None:
    crash = _Crash(prepare_stages(branchy))
    for labels, sentence in (([0, 1], "for 5 images"), ([0, 1, 2, 3, 0], "from 0 to 3 for 3")):
        with pytest.raises(DataError, match=sentence):
            _export(
                branchy, images, tmp_path / "b", targets=[crash], example_labels=np.array(labels)
            )
