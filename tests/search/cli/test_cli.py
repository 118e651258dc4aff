"""The commands' own words: lists, options, and refusals before any work is done."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, get_args

import pytest

from offramp_search.pipeline import Method

if TYPE_CHECKING:
    from pathlib import Path


def offramp(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "offramp", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_methods_lists_what_there_is(tmp_path: Path) -> None:
    done = offramp("methods", "--json", folder=tmp_path)
    assert done.returncode == 0
    listed = {entry["method"]: entry for entry in json.loads(done.stdout)}
    assert listed.keys() == {*get_args(Method), "unnas"}
    assert "1911.07033" in listed["s2dnas"]["source"]


@pytest.mark.parametrize("command", ["search", "demo", "methods"])
def test_help_is_there(command: str, tmp_path: Path) -> None:
    done = offramp(command, "--help", folder=tmp_path)
    assert done.returncode == 0
    assert f"offramp {command}" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--data", "x", "--out", "o", "--export", "litert/int4"], "unknown target 'litert/int4'"),
        (["--data", "nonsense", "--out", "o"], "is no folder, and no data set either"),
        (["--data", "x", "--out", "o", "--budget-mean-ms", "-1"], "--budget-mean-ms"),
        (["--data", "x", "--out", "o", "--method", "magic"], "magic"),
        (["--data", "x", "--out", "o", "--objective", "magic"], "magic"),
        (["--data", "x", "--out", "o", "--objective", "jigsaw"], "is no folder, and no data"),
        (["--data", "x", "--out", "o", "--train-data", "y"], "searches without labels"),
        (
            ["--data", "x", "--out", "o", "--method", "unnas", "--objective", "labels"],
            "unnas searches without labels",
        ),
        (["--data", "x", "--out", "o", "--evaluator", "fine-tune"], "share one network"),
        (["--data", "x", "--out", "o", "--smaller", "half"], "numbers such as 0.25,0.5"),
        (["--data", "x", "--out", "o", "--ray-address", "auto"], "goes with --engine ray"),
        (["--data", "x", "--out", "o", "--minutes", "0"], "a search takes some minutes, got 0.0"),
        (["--data", "x", "--out", "o", "--devices", "9999"], "but this machine has"),
        (["--data", "x", "--out", "o", "--smaller", "0.3"], "give multiples of 1/8 up to 1"),
        (
            ["--data", "x", "--out", "o", "--exit-head-channels", "2", "--stages", "3"],
            "at least one for each of 3 stages, got 2; give 64, say",
        ),
    ],
)
def test_bad_options_are_one_sentence(arguments: list[str], words: str, tmp_path: Path) -> None:
    done = offramp("search", *arguments, folder=tmp_path)
    assert done.returncode != 0
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "o").exists()
