"""A short version of ``benchmarks/tabular_methods.py``: the same comparisons, fewer seeds."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from offramp_search.samplers import RandomSampler
from offramp_search.tabular import best_of, load_nas_bench_macro, load_transnas_bench, run

if TYPE_CHECKING:
    from offramp_search.report import Claim


@pytest.fixture(scope="module")
def benchmark() -> Any:
    path = Path(__file__).parents[3] / "benchmarks" / "tabular_methods.py"
    spec = importlib.util.spec_from_file_location("tabular_methods", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def tables(data_folder: Path) -> Path:
    folder = data_folder / "nasbench"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    return folder


def unmet(claims: list[Claim]) -> list[str]:
    return [claim.claim for claim in claims if not claim.met]


def test_ddpnas_beats_random_search_under_noise(tables: Path, benchmark: Any) -> None:
    space = load_nas_bench_macro(tables)
    claims, _ = benchmark.ddpnas(space, "accuracy", "accuracy", 30)
    assert not unmet(claims)


@pytest.mark.parametrize("space", ["micro", "macro"])
def test_jigsaw_selects_nearly_as_labels_do(tables: Path, benchmark: Any, space: Any) -> None:
    claims, _ = benchmark.unnas(load_transnas_bench(tables, space), 1000)
    assert not unmet(claims)


def test_pnas_needs_a_fifth_of_the_models_of_random_search(tables: Path, benchmark: Any) -> None:
    space = load_nas_bench_macro(tables)
    evaluate = benchmark.told(space, "accuracy")
    pnas = [
        best_of(run(space, benchmark.progressive(space, s, "identity"), evaluate, evaluations=57))
        for s in range(3)
    ]
    random = [best_of(run(space, RandomSampler(s), evaluate, evaluations=285)) for s in range(3)]
    found, drawn = (np.mean([trial.value for trial in best]) for best in (pnas, random))
    assert found >= 0.93
    assert found >= drawn
