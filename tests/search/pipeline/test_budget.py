"""Runs on a recorded device whose budget nobody can keep."""

from __future__ import annotations

import zlib
from itertools import product
from typing import TYPE_CHECKING, Any, cast, get_args

import numpy as np
import pytest
from PIL import Image

from offramp.errors import InfeasibleBudgetError
from offramp.latency import Latency
from offramp_export.network import Preprocess
from offramp_search.bases import load_base
from offramp_search.devices import CALL, LatencyTable, module_key, record_table
from offramp_search.pipeline import Method, Settings, run_pipeline, search_label_free
from offramp_search.pipeline._reporter import Reporter
from offramp_search.spaces import Cell, StaticTransform

if TYPE_CHECKING:
    from pathlib import Path

    from optuna.distributions import CategoricalDistribution

    from offramp_search.spaces import Space

SIZE = (16, 16)
STATIC_MS = 1.0
SMALLEST_MS = 0.02

_BASE = """
from torch import nn


def tiny(classes):
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(1), nn.Linear(16, classes),
    )
"""


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    for index in range(900):
        folder = tmp_path / "photos" / f"class_{index % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (*SIZE, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    (tmp_path / "tiny_budget_base.py").write_text(_BASE)
    monkeypatch.syspath_prepend(str(tmp_path))

    def train(*_: Any, **__: Any) -> None:
        raise AssertionError("something was trained")

    monkeypatch.setattr("offramp_search.pipeline._train_steps.train", train)
    monkeypatch.setattr("offramp_search.pipeline._relaxed_step.relax", train)
    return {
        "source": str(tmp_path / "photos"),
        "base": "tiny_budget_base:tiny",
        "groups": 2,
        "trials": 3,
        "cell_blocks": 1,
        "cell_filters": 4,
        "limit": 0.05,
    }


def record(settings: Settings, path: Path) -> tuple[LatencyTable, Space]:
    """A table that knows every architecture of a small space, and the static network."""
    base = load_base(settings.base, num_classes=2, image_shape=SIZE)
    if settings.space == "cell":
        space: Space = Cell(image_shape=SIZE, num_classes=2, blocks=1, filters=4)
    else:
        space = StaticTransform(
            base.module, image_shape=SIZE, preprocess=Preprocess(), num_stages=2, groups=2
        )
    latencies = {CALL.key: Latency((SMALLEST_MS,))}
    decisions = space.decisions()
    kinds = [cast("CategoricalDistribution", kind).choices for kind in decisions.values()]
    for choices in product(*kinds):
        architecture = cast("dict[str, str]", dict(zip(decisions, choices, strict=True)))
        if space.refusal(architecture) is None:
            for block in (block for stage in space.blocks(architecture) for block in stage):
                ms = SMALLEST_MS + zlib.crc32(block.key.encode()) % 1000 / 1e3
                latencies[block.key] = Latency((ms,))
    static = {module_key(base.module, SIZE): (Latency((STATIC_MS,)),)}
    device = {"processor": "made up"}
    return LatencyTable.recorded(
        record_table(path, latencies, device=device, networks=static)
    ), space


def predicted(space: Space, table: LatencyTable, error: InfeasibleBudgetError) -> list[float]:
    assert error.architecture is not None
    return [stage.ms for stage in table.predict(space.blocks(error.architecture))]


@pytest.mark.parametrize(
    ("method", "kind"),
    [*((method, "static_transform") for method in get_args(Method)), ("pnas", "cell")],
)
def test_a_budget_nobody_can_keep_ends_the_run_before_anything_is_trained(
    settings: dict[str, Any], tmp_path: Path, method: Any, kind: Any
) -> None:
    chosen = Settings(method=method, space=kind, mean_share=SMALLEST_MS / STATIC_MS, **settings)
    table, space = record(chosen, tmp_path / "table.json")
    with pytest.raises(
        InfeasibleBudgetError, match=r"smallest mean_ms is .*stage 0 alone"
    ) as error:
        run_pipeline(chosen, tmp_path / "out", cache=tmp_path / "cache", table=table)
    assert error.value.smallest == pytest.approx(predicted(space, table, error.value)[0])
    assert not list((tmp_path / "out").glob("*.safetensors"))


@pytest.mark.parametrize("method", ["unnas", "random"])
def test_a_search_without_labels_ends_as_early(
    settings: dict[str, Any], tmp_path: Path, method: Any
) -> None:
    chosen = Settings(
        method=method, objective="rotation", mean_share=None, worst_ms=SMALLEST_MS, **settings
    )
    table, space = record(chosen, tmp_path / "table.json")
    with pytest.raises(InfeasibleBudgetError, match=r"smallest worst_ms is .*all stages") as error:
        search_label_free(
            chosen,
            tmp_path / "out",
            cache=tmp_path / "cache",
            reporter=Reporter(),
            labelled=True,
            table=table,
        )
    assert error.value.smallest == pytest.approx(sum(predicted(space, table, error.value)))
