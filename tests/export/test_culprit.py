"""The first operator that a program computes otherwise is found, and only that."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from offramp.errors import ExportError, ExportMismatchError
from offramp_export import Preprocess, export
from offramp_export._edges import run_stages
from offramp_export.culprit import Culprit, find_culprit
from offramp_export.cut import cut
from offramp_export.targets import ConvertedProgram, LiteRT, Target
from offramp_export.testing import contract_images, contract_stages

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray


class _Wrong(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Computes one operator five percent too large."""

    def __init__(self, operator: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operator = operator

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if not str(func).startswith(f"aten.{self.operator}."):
            return result
        return (result[0] * 1.05, *result[1:]) if isinstance(result, tuple) else result * 1.05


@dataclass(frozen=True)
class _Broken(Target):
    """Torch itself, but for one operator."""

    operator: str
    parts: bool = True
    converted: list[Sequence[nn.Module]] = field(default_factory=list)

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
        if len(stages) == 1 and not self.parts:
            raise ExportError("no part of it")
        self.converted.append(stages)
        return ConvertedProgram(files={}, stages=(), exporter={})

    def run(self, program: ConvertedProgram, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.no_grad(), _Wrong(self.operator):
            rows = [
                run_stages(self.converted[-1], torch.from_numpy(image[None].astype(np.float32)))
                for image in images
            ]
        exits = [torch.cat([one[0] for one in exit]) for exit in zip(*rows, strict=True)]
        return torch.stack(exits).numpy()


def _find(
    operator: str, exit: int, images: int = 2, stages: Sequence[nn.Module] | None = None
) -> tuple[Culprit | None, _Broken]:
    target = _Broken(operator)
    found = find_culprit(
        stages or contract_stages(), target, contract_images(images), exit=exit, tolerance=1e-4
    )
    return found, target


def test_the_stage_the_layer_and_the_operator_are_named() -> None:
    target = _Broken("sigmoid")
    seen: list[tuple[int, int]] = []
    culprit = find_culprit(
        contract_stages(),
        target,
        contract_images(2),
        exit=2,
        tolerance=1e-4,
        progress=lambda done, most: seen.append((done, most)),
    )
    assert culprit is not None
    assert (culprit.stage, culprit.operator) == (1, "aten.sigmoid.default")
    assert culprit.difference > 0.04
    assert culprit.before <= 1e-4
    assert len(target.converted) < 10
    assert seen[-1] == (len(target.converted),) * 2


def test_a_layer_is_named_as_the_stage_names_it() -> None:
    culprit, _ = _find("max_pool2d_with_indices", 2)
    assert culprit is not None
    assert (culprit.stage, culprit.layer) in {(1, "pool"), (2, "narrow")}
    culprit, _ = _find("addmm", 1)
    assert culprit is not None
    assert (culprit.stage, culprit.layer) == (1, "exit.linear")


def test_an_exit_that_nothing_later_reads_is_searched_too() -> None:
    culprit, target = _find("addmm", 0)
    assert culprit is not None
    assert (culprit.stage, culprit.layer) == (0, "exit.linear")
    assert len(target.converted) < 6


def test_a_network_that_was_cut_names_its_own_layers() -> None:
    stages = cut(_Whole(), (16, 16), preprocess=Preprocess())
    culprit, _ = _find("addmm", 1, stages=stages)
    assert culprit is not None
    assert (culprit.stage, culprit.layer) == (1, "network.last")


def test_what_is_not_broken_has_no_culprit(branchy: list[nn.Module]) -> None:
    images = contract_images(2)[:, :8, :8]
    assert find_culprit(branchy, LiteRT(), images, exit=0, tolerance=1e-4) is None


def test_a_broken_program_says_which_layer_in_its_error(tmp_path: Path) -> None:
    with pytest.raises(
        ExportMismatchError, match=r"first to depart is stage 1 itself, aten.sigmoid.default"
    ) as caught:
        export(
            contract_stages(),
            contract_images(4),
            [_Broken("sigmoid")],
            path=tmp_path / "bundle",
            labels=[*"abcde"],
        )
    assert (caught.value.exit, caught.value.stage, caught.value.layer) == (2, 1, "")
    assert not (tmp_path / "bundle").exists()


def test_a_search_that_fails_says_so(tmp_path: Path) -> None:
    with pytest.raises(ExportMismatchError, match="could not be found: no part of it") as caught:
        export(
            contract_stages(),
            contract_images(4),
            [_Broken("sigmoid", parts=False)],
            path=tmp_path / "bundle",
            labels=[*"abcde"],
        )
    assert caught.value.stage is None


class _Whole(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 8, 3, 2)
        self.first, self.more, self.last = nn.Linear(8, 5), nn.Conv2d(8, 8, 3), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.relu(self.body(x))
        first = torch.sigmoid(self.first(x.amax((2, 3))))
        return first, self.last(torch.relu(self.more(x)).amax((2, 3)))
