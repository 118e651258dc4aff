"""The check for a Mac, with packages read back in place of Core ML."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, final

import numpy as np
import pytest
import torch

from offramp.errors import BundleError
from offramp_export import coreml_check, export
from offramp_export._quiet import quiet
from offramp_export.targets import CoreML
from offramp_export.targets._mil import SavedProgram

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import nn

    from offramp.bundle import Bundle


@final
class _ReadBack:
    """Computes a function of a saved package, with an error in its logits if asked."""

    def __init__(self, package: Path, function: str | None, error: float = 0.0) -> None:
        with quiet():
            self._program = SavedProgram.open(package)
        self._function, self._error = function or "main", error

    def predict(self, inputs: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        values = [torch.from_numpy(inputs[f"input_{place}"]) for place in range(len(inputs))]
        logits, *carry = self._program.run(self._function, values)
        outputs = [logits + self._error * torch.arange(logits.shape[1]), *carry]
        return {f"output_{place}": value.numpy() for place, value in enumerate(outputs)}


@pytest.fixture
def images() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), dtype=np.uint8)


def _bundle(
    stages: list[nn.Module], images: NDArray[np.uint8], path: Path, target: CoreML
) -> Bundle:
    return export(stages, images, [target], path=path, labels=["a", "b", "c"]).bundle


@pytest.mark.parametrize("target", [CoreML(), CoreML(deployment_target="iOS16")])
def test_every_program_is_compared_stage_by_stage(
    branchy: list[nn.Module], images: NDArray[np.uint8], tmp_path: Path, target: CoreML
) -> None:
    bundle = _bundle(branchy, images, tmp_path / "bundle", target)
    (program,) = bundle.manifest.programs
    recorded = bundle.vectors().logits[program.name]
    vectors = bundle.vectors().images
    found = coreml_check.check_program(
        program, bundle.path, "CPU_ONLY", vectors, recorded, _ReadBack
    )
    assert found.label_agreement == (1.0, 1.0)
    assert found.difference == (0.0, 0.0)
    assert found.images == len(vectors)
    assert all(ms > 0 for ms in found.stage_ms)

    wrong = coreml_check.check_program(
        program,
        bundle.path,
        "ALL",
        vectors,
        recorded,
        lambda package, function: _ReadBack(package, function, error=100.0),
    )
    assert max(wrong.label_agreement) < 1
    assert min(wrong.difference) > 1


def test_outputs_by_other_names_are_refused(
    branchy: list[nn.Module], images: NDArray[np.uint8], tmp_path: Path
) -> None:
    bundle = _bundle(branchy, images, tmp_path / "bundle", CoreML())
    (program,) = bundle.manifest.programs
    vectors = bundle.vectors()

    class Other:
        def predict(self, inputs: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
            return {"var_7": np.zeros((1, 3), np.float32)}

    with pytest.raises(BundleError, match=r"gave var_7, expected output_0, output_1"):
        coreml_check.check_program(
            program,
            bundle.path,
            "ALL",
            vectors.images,
            vectors.logits[program.name],
            lambda _, __: Other(),
        )


@pytest.mark.skipif(sys.platform == "darwin", reason="there it runs")
def test_elsewhere_it_says_where_to_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert coreml_check.main(["bundle"]) == 2
    assert "copy the bundle to a Mac" in capsys.readouterr().err
