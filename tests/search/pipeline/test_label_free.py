"""Searches of real images without labels, on the real latency of this machine."""

from __future__ import annotations

import json
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from offramp.errors import DataError
from offramp_search.engine import read_result
from offramp_search.pipeline import Reporter, Settings, search_label_free
from offramp_search.spaces import Cell
from offramp_search.training import Recipe

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_BASE = """
import torch
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
    photos = tmp_path / "photos"
    photos.mkdir()
    rng = np.random.default_rng(0)
    for index in range(80):
        pixels = rng.integers(0, 256, (4, 4, 3)).astype(np.uint8)
        Image.fromarray(pixels).resize((32, 32)).save(photos / f"{index}.png")
    (tmp_path / "tiny_base.py").write_text(_BASE)
    monkeypatch.syspath_prepend(str(tmp_path))
    return {
        "source": str(photos),
        "base": "tiny_base:tiny",
        "groups": 2,
        "trials": 3,
        "mean_ms": 5.0,
        "mean_share": None,
        "latency_runs": 5,
        "shared_recipe": Recipe(epochs=1, batch_size=16, learning_rate=0.02),
    }


@pytest.mark.parametrize(
    ("method", "objective", "evaluator", "heads"),
    [
        ("random", "rotation", "shared", 0),
        ("evolution", "colorization", "fine-tune", 0),
        ("unnas", "jigsaw", "shared", 0),
        ("unnas", "rotation", "shared", 4),
    ],
)
def test_a_folder_of_photos_is_searched_and_not_twice(
    settings: dict[str, Any],
    tmp_path: Path,
    method: Any,
    objective: Any,
    evaluator: Any,
    heads: int,
) -> None:
    said: list[str] = []
    settings["exit_head_channels"] = heads
    chosen = Settings(method=method, objective=objective, evaluator=evaluator, **settings)

    def run() -> Any:
        return search_label_free(
            chosen,
            tmp_path / "out",
            cache=tmp_path / "cache",
            reporter=Reporter(say=said.append),
            labelled=False,
        )

    found = run()
    assert isinstance(found, dict)
    assert all("+" in choice for choice in found.values())
    assert any("no label is looked at" in line for line in said)
    assert run() == found
    assert said[-1] == "architecture found in architecture.json"


def test_cells_are_searched_by_relaxing_them(settings: dict[str, Any], tmp_path: Path) -> None:
    chosen = Settings(
        method="unnas",
        objective="jigsaw",
        space="cell",
        num_stages=2,
        cell_blocks=2,
        cell_filters=4,
        **settings,
    )
    said: list[str] = []
    found = search_label_free(
        chosen,
        tmp_path / "out",
        cache=tmp_path / "cache",
        reporter=Reporter(say=said.append),
        labelled=False,
    )
    space = Cell(image_shape=(32, 32), num_classes=10, num_stages=2, blocks=2, filters=4)
    assert len(space.build(found).stages) == 2
    assert any("keeps the budget" in line for line in said)


def test_other_methods_refuse_cells_without_labels(settings: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="by --method unnas alone, got evolution"):
        Settings(method="evolution", objective="jigsaw", space="cell", **settings)


@pytest.mark.parametrize("method", ["evolution", "unnas"])
def test_a_search_may_be_given_minutes_instead_of_trials(
    settings: dict[str, Any], tmp_path: Path, method: Any
) -> None:
    seconds = 5.0
    chosen = Settings(method=method, objective="rotation", search_minutes=seconds / 60, **settings)
    steps: list[str] = []
    times: dict[str, float] = {}

    @contextmanager
    def progress(step: str) -> Iterator[Any]:
        steps.append(step)
        began = time.monotonic()
        yield lambda done, total: None
        times[step] = time.monotonic() - began

    def run() -> Any:
        return search_label_free(
            chosen,
            tmp_path / "out",
            cache=tmp_path / "cache",
            reporter=Reporter(progress=progress),
            labelled=False,
        )

    found = run()
    if method == "unnas":
        plan = json.loads((tmp_path / "out" / "relaxed-plan.json").read_text())
        assert plan["epochs"] > settings["shared_recipe"].epochs + 1
        # Planned from the time of a few steps: a machine that was busy then makes it shorter.
        assert times["Relaxed search"] < 6 * seconds
    else:
        # Far more than the three it would otherwise try.
        assert len(read_result(tmp_path / "out" / "search" / "result.json").trials) > 6
        assert seconds <= times["Searching"] < 2 * seconds
    done = len(steps)
    assert run() == found
    assert len(steps) == done
