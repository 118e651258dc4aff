from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from offramp.errors import DataError
from offramp_search.samplers import RandomSampler
from offramp_search.tabular import (
    TabularSpace,
    best_of,
    load_nas_bench_201,
    load_nas_bench_macro,
    load_transnas_bench,
    run,
)

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def tables(data_folder: Path) -> Path:
    folder = data_folder / "nasbench"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    return folder


@pytest.fixture
def small() -> TabularSpace:
    value = np.arange(6, dtype=float).reshape(2, 3)
    return TabularSpace("small", {"a": ("x", "y"), "b": ("p", "q", "r")}, {"value": value})


def test_nas_bench_macro_has_its_published_values(tables: Path) -> None:
    space = load_nas_bench_macro(tables)
    assert space.columns["accuracy"].size == 6561
    best = {f"layer_{layer}": "mb6_k5" for layer in range(8)}
    best |= {"layer_3": "mb3_k3", "layer_6": "identity"}
    assert space.look_up("accuracy", best) == space.best("accuracy") == pytest.approx(0.93127, 1e-4)
    assert space.mean("accuracy") == pytest.approx(0.9025, abs=1e-3)
    flops = space.columns["flops"]
    assert (flops.min() / 1e6, flops.max() / 1e6) == pytest.approx((7.7, 105.7), abs=0.05)


def test_nas_bench_201_has_its_published_values(tables: Path) -> None:
    space = load_nas_bench_201(tables)
    assert space.columns["test"].size == 15625
    assert space.best("test") == pytest.approx(0.9152, abs=1e-4)
    first_row: tuple[str, ...] = ("avg_pool_3x3", "nor_conv_1x1", "skip_connect")
    first_row += ("nor_conv_1x1", "skip_connect", "skip_connect")
    architecture = dict(zip(space.choices, first_row, strict=True))
    assert space.look_up("test", architecture) == pytest.approx(0.8152)


def test_transnas_bench_has_both_spaces(tables: Path) -> None:
    macro, micro = (load_transnas_bench(tables, space) for space in ("macro", "micro"))
    assert macro.columns["object"].size == 3256
    assert micro.columns["object"].size == 4096
    assert macro.look_up("object", {"network": "0"}) == pytest.approx(0.50671775)
    selecting = {"object_validation", "jigsaw_validation"}
    assert set(macro.columns) == {"object", "scene", "jigsaw", "autoencoder"} | selecting


def test_look_ups_name_what_is_wrong(small: TabularSpace) -> None:
    assert small.look_up("value", {"a": "y", "b": "q"}) == 4
    assert (small.best("value"), small.mean("value")) == (5, 2.5)
    with pytest.raises(ValueError, match="no column 'test'; it has value"):
        small.look_up("test", {"a": "y", "b": "q"})
    with pytest.raises(ValueError, match="decisions of small are a, b; got a"):
        small.look_up("value", {"a": "y"})
    with pytest.raises(ValueError, match="'z' is no choice of a; it has x, y"):
        small.look_up("value", {"a": "z", "b": "q"})
    with pytest.raises(ValueError, match=r"has shape \(2,\); expected \(3,\)"):
        TabularSpace("bad", {"a": ("x", "y", "z")}, {"value": np.zeros(2)})


@pytest.mark.parametrize("content", [None, b"[]", b'{"00000000": {"test_acc": [1]}}', b"{}"])
def test_what_is_no_table_is_refused(tmp_path: Path, content: bytes | None) -> None:
    for name in (
        "nas-bench-macro_cifar10.json",
        "nasbench201_cifar10.csv",
        "transbench101_class_object.csv",
    ):
        if content is not None:
            (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match="nas-bench-macro_cifar10"):
        load_nas_bench_macro(tmp_path)
    with pytest.raises(DataError, match="nasbench201_cifar10"):
        load_nas_bench_201(tmp_path)
    with pytest.raises(DataError, match="transbench101_class_object"):
        load_transnas_bench(tmp_path, "macro")


def test_the_loop_finds_the_best_and_refuses_what_breaks_the_budget(small: TabularSpace) -> None:
    def value(architecture: object) -> float:
        return small.look_up("value", architecture)  # type: ignore[arg-type]

    trials = run(small, RandomSampler(0), value, evaluations=40)
    assert len(trials) == 40
    assert best_of(trials).value == 5
    kept = run(small, RandomSampler(0), value, evaluations=40, excess=lambda a: value(a) - 3.5)
    assert len(kept) == 40
    assert best_of(kept).value == 3
    with pytest.raises(RuntimeError, match="7 proposals in a row"):
        run(
            small,
            RandomSampler(0),
            value,
            evaluations=1,
            excess=lambda _: 1.0,
            max_refusals=7,
        )
