"""This binding passes the image vectors, which are what their script makes of them."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from offramp.bundle import InputSpec
from offramp.images import load_image, nearest_positions, resample_weights

CONFORMANCE = Path(__file__).resolve().parents[3] / "sdk" / "conformance"
INDEX = json.loads((CONFORMANCE / "images" / "index.json").read_text())
EXPECTED = (CONFORMANCE / "images" / "expected.bin").read_bytes()


def _name(case: dict[str, Any]) -> str:
    words = [Path(case["input"]).stem, case["resize"], case["filter"], case["height"]]
    return "-".join(map(str, [*words, case["width"], case["region"], case["rotation_degrees"]]))


@pytest.mark.parametrize("case", INDEX["cases"], ids=_name)
def test_case(case: dict[str, Any]) -> None:
    spec = InputSpec(
        height=case["height"], width=case["width"], resize=case["resize"], filter=case["filter"]
    )
    size = case["height"] * case["width"] * 3
    expected = EXPECTED[case["offset"] : case["offset"] + size]
    assert hashlib.sha256(expected).hexdigest() == case["sha256"]
    path = CONFORMANCE / "images" / case["input"]
    options = {"region": case["region"], "rotation_degrees": case["rotation_degrees"]}
    with Image.open(path) as picture:
        for image in (path, path.read_bytes(), picture):
            given = load_image(image, spec, **options)
            np.testing.assert_array_equal(given.ravel(), np.frombuffer(expected, np.uint8))


def test_weights() -> None:
    for row in INDEX["weights"]:
        if row["filter"] == "nearest":
            assert nearest_positions(row["size"], row["wanted"]).tolist() == row["positions"]
        else:
            first, weights = resample_weights(row["size"], row["wanted"], row["filter"])
            assert first.tolist() == row["first"]
            assert weights.tolist() == row["weights"]


def test_the_vectors_tell_rules_apart() -> None:
    """Multiplying the positions, or scaling columns first, would fail some case."""
    differ = [
        case
        for case in INDEX["cases"]
        if case["filter"] == "nearest" and "wide" in case["input"] and case["height"] == 5
    ]
    assert any(
        (
            nearest_positions(330, case["width"])
            != np.trunc((np.arange(case["width"]) + 0.5) * (330 / case["width"]))
        ).any()
        for case in differ
    )
    tall = next(c for c in INDEX["cases"] if "tall" in c["input"] and c["filter"] == "bilinear")
    with Image.open(CONFORMANCE / "images" / tall["input"]) as picture:
        columns_first = picture.resize((picture.width, tall["height"]), Image.Resampling.BILINEAR)
    other = columns_first.resize((tall["width"], tall["height"]), Image.Resampling.BILINEAR)
    assert hashlib.sha256(other.tobytes()).hexdigest() != tall["sha256"]


def test_the_script_makes_these_files(tmp_path: Path) -> None:
    script = CONFORMANCE / "make_images.py"
    subprocess.run([sys.executable, script, "--out", tmp_path], check=True, timeout=120)
    made = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    here = CONFORMANCE / "images"
    assert made == sorted(path.relative_to(here) for path in here.rglob("*") if path.is_file())
    for path in made:
        assert (tmp_path / path).read_bytes() == (here / path).read_bytes(), path
