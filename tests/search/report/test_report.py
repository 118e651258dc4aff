"""Results say where they come from; plots are pictures."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from offramp.bundle import Certificate
from offramp.latency import Latency
from offramp_search.report import Claim, Point, plot_tradeoff, write_result

if TYPE_CHECKING:
    from pathlib import Path


def test_a_result_says_where_it_comes_from(tmp_path: Path) -> None:
    path = tmp_path / "results" / "name.json"
    write_result(
        path,
        purpose="what for",
        claims=[Claim.at_most("ratio", 0.8, 0.7), Claim("shown", 3.0, None, True)],
        figures={"latency": Latency((1.0, 2.0)), "shares": (0.5, 0.5)},
        command=["/somewhere/offramp", "demo", "--data", "/home/me/photos", "--out=/tmp/x"],
    )
    record = json.loads(path.read_text())
    assert record["command"] == "offramp demo --data photos --out=x"
    assert record["claims"] == [
        {"claim": "ratio", "value": 0.8, "goal": 0.7, "met": False},
        {"claim": "shown", "value": 3.0, "goal": None, "met": True},
    ]
    assert record["figures"]["latency"]["samples_ms"] == [1.0, 2.0]
    assert {"offramp", "torch", "python"} <= record["versions"].keys()
    assert record["machine"]["processor"]
    assert record["date"].endswith("+00:00")


def test_structs_of_the_manifest_can_be_figures(tmp_path: Path) -> None:
    certificate = Certificate(
        kind="accuracy_drop",
        claim="claim",
        reference="self",
        limit=0.01,
        confidence=0.95,
        images_fit=1,
        images_certified=2,
        observed=0.0,
        upper_bound=0.01,
        method="method",
        seed=0,
        data_sha256="0" * 64,
    )
    write_result(tmp_path / "r.json", claims=[], figures={"certificate": certificate})
    assert json.loads((tmp_path / "r.json").read_text())["figures"]["certificate"]["limit"] == 0.01


def test_goals_are_judged_from_their_own_side() -> None:
    assert Claim.at_most("x", 0.7, 0.7).met
    assert not Claim.at_least("x", 0.69, 0.7).met
    with pytest.raises(ValueError, match="'x' must be finite, got nan"):
        Claim.at_most("x", float("nan"), 1.0)


def test_the_plot_shows_points_and_curves(tmp_path: Path) -> None:
    def draw(
        name: str, points: list[Point], curve: list[tuple[float, float]]
    ) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
        plot_tradeoff(tmp_path / name, points, curves={"a": curve}, title="t")
        with Image.open(tmp_path / name) as image:
            return np.asarray(image.convert("RGB"))

    static = Point("static", 2.0, 0.9, group="a", is_static=True)
    dynamic = Point("dynamic", 1.0, 0.89, group="a")
    curve = [(1.5, 0.88), (0.5, 0.7)]
    both = draw("both.png", [static, dynamic], curve)
    assert both.shape[0] > 300
    assert len(np.unique(both.reshape(-1, 3), axis=0)) > 10
    assert not np.array_equal(both, draw("one.png", [static], curve))
