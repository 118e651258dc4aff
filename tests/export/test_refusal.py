"""What a converter refuses is named: the stage, the layer in it, the operator, and what to do."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from offramp.errors import ConversionError
from offramp_export import Preprocess, export
from offramp_export._litert.compress import compress_weights
from offramp_export._litert.convert import Signature, convert_signatures
from offramp_export._litert.quantize import _quantize
from offramp_export._litert.recipe import make_recipe
from offramp_export.targets import CoreML, ExecuTorch, LiteRT

if TYPE_CHECKING:
    from pathlib import Path

    from offramp_export.targets import Target

IMAGES = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), dtype=np.uint8)


class _First(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.preprocess = Preprocess()
        self.layer = nn.Conv2d(3, 4, 3, padding=1)
        self.exit = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.relu(self.layer(self.preprocess(image)))
        return self.exit(x), x


class _Spectrum(nn.Module):
    """The eigenvalues of every channel, which none of the converters knows."""

    def forward(self, x: Tensor) -> Tensor:
        values: Tensor = torch.linalg.eigvalsh(x + x.transpose(2, 3))
        return values


class _Last(nn.Module):
    def __init__(self, odd: nn.Module, features: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), odd)
        self.exit = nn.Linear(features, 3)

    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (self.exit(torch.flatten(self.body(x), 1)),)


def _refused(target: Target, odd: nn.Module, features: int, path: Path) -> ConversionError:
    stages = [_First(), _Last(odd, features)]
    try:
        export(
            stages,
            IMAGES,
            [target],
            path=path / "bundle",
            labels=("ant", "bee", "cow"),
            calibration_images=IMAGES,
        )
    except ConversionError as error:
        assert not (path / "bundle").exists()
        refused = error.with_traceback(None)
        refused.__cause__ = refused.__context__ = None
    else:
        pytest.fail("nothing was refused")
    # What coremltools was at work on is freed here, with a warning of its own.
    gc.collect()
    return refused


@pytest.mark.filterwarnings("ignore:Implicitly cleaning up:ResourceWarning")
@pytest.mark.parametrize("target", [LiteRT("int8"), ExecuTorch(), CoreML()])
def test_the_layer_and_the_operator_are_named(target: Target, tmp_path: Path) -> None:
    error = _refused(target, _Spectrum(), 32, tmp_path)
    assert (error.stage, error.layer) == (1, "body.2")
    assert error.operator == "aten.linalg_eigvalsh.default"
    name = {"litert": "LiteRT", "executorch": "ExecuTorch", "coreml": "Core ML"}[target.runtime]
    said = str(error)
    assert said.startswith(f"{name}'s converter refused ")
    assert "replace the operator it names, or leave" in said
    assert said.endswith(
        "what it refuses is aten.linalg_eigvalsh.default in layer 'body.2' of stage 1"
    )
    assert "\n" not in said


def test_what_to_write_instead_is_said_where_it_is_known(tmp_path: Path) -> None:
    error = _refused(LiteRT(), nn.AdaptiveMaxPool2d(1), 4, tmp_path)
    assert (error.stage, error.layer) == (1, "body.2")
    assert str(error).endswith(
        "in layer 'body.2' of stage 1: write x.amax((2, 3)) for its "
        "maximum, or a MaxPool2d of fixed size"
    )


class _Sorts(nn.Module):
    """Converters have forms for it, and the runtimes no kernels."""

    def forward(self, x: Tensor) -> Tensor:
        values: Tensor = torch.flatten(x, 1).sort(1)[0]
        return values


class _Counts(nn.Module):
    """Of whole numbers inside, which no converter can be given as an input."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.one_hot(torch.flatten(x, 1).argmax(1), 256).float()


@pytest.mark.parametrize("target", [LiteRT(), LiteRT("int8"), ExecuTorch(), ExecuTorch("int8")])
def test_what_no_runtime_has_a_kernel_for_is_named(target: Target, tmp_path: Path) -> None:
    error = _refused(target, _Sorts(), 256, tmp_path)
    assert (error.stage, error.layer) == (1, "body.2")
    assert error.operator == "aten.sort.default"
    assert "return the logits and sort them in the app" in str(error)
    assert "old TFLite binary" not in str(error)


def test_an_operator_of_whole_numbers_is_named(tmp_path: Path) -> None:
    error = _refused(LiteRT("int8"), _Counts(), 256, tmp_path)
    assert (error.stage, error.layer, error.operator) == (1, "body.2", "aten.one_hot.default")


def test_what_the_litert_quantiser_says_is_passed_on() -> None:
    signature = Signature(nn.Conv2d(3, 4, 3).eval(), ((1, 3, 8, 8),))
    program = convert_signatures({"stage_0": signature})
    static = make_recipe(["stage_0"], ["int8"])
    # Without the ranges that static int8 needs.
    said = r"LiteRT's quantiser refused the program: .*statistics.*; leave"
    with pytest.raises(ConversionError, match=said):
        compress_weights(program, static)
    with pytest.raises(ConversionError, match=said):
        _quantize(program, {}, static)


class _Masked(nn.Module):
    """Computes with truth values, whole numbers and bfloat16, which int8 does not round."""

    def forward(self, x: Tensor) -> Tensor:
        pooled = x.mean((2, 3))
        seen = (pooled > 0).float() + (pooled > 1).long().float()
        return pooled * (1 + seen.bfloat16().float())


@pytest.mark.parametrize("target", [LiteRT("dynamic_int8"), LiteRT("int8")])
def test_numbers_that_are_not_float32_are_converted(target: Target, tmp_path: Path) -> None:
    torch.manual_seed(0)
    export(
        [_First(), _Last(_Masked(), 4)],
        IMAGES,
        [target],
        path=tmp_path / "bundle",
        labels=("ant", "bee", "cow"),
        calibration_images=IMAGES,
    )


class _Peeks(nn.Module):
    """Asks for a value while the network is traced."""

    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


@pytest.mark.parametrize("target", [LiteRT(), ExecuTorch(), CoreML()])
def test_what_cannot_be_traced_is_named(target: Target, tmp_path: Path) -> None:
    error = _refused(target, _Peeks(), 256, tmp_path)
    assert (error.stage, error.layer) == (1, "body.2")
    assert error.operator is not None
    assert "__bool__" in error.operator
    assert str(error).endswith(f"what it refuses is {error.operator} in layer 'body.2' of stage 1")
