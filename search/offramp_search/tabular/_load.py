"""The published tables."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING, Literal

import msgspec
import numpy as np

from offramp.errors import DataError
from offramp_search.tabular._base import TabularSpace

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["load_nas_bench_201", "load_nas_bench_macro", "load_transnas_bench"]

_MACRO_CHOICES = ("identity", "mb3_k3", "mb6_k5")
_MACRO_LAYERS = 8
_201_CHOICES = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
_201_EDGES = ("1_0", "2_0", "2_1", "3_0", "3_1", "3_2")
_TRANSNAS_MACRO = 3256
_TRANSNAS_ALL = 7352


def load_nas_bench_macro(folder: Path) -> TabularSpace:
    """NAS-Bench-Macro (Su et al. 2021): 8 layers of 3 operations on CIFAR-10, 6,561 networks.

    The table calls the operations 0, 1 and 2. Columns: ``accuracy`` (mean of three seeds),
    ``accuracy_0`` to ``accuracy_2``, ``flops``, ``params``.

    Args:
        folder: Holds ``nas-bench-macro_cifar10.json``.

    Raises:
        DataError: The file is missing or does not hold the table.
    """
    path = folder / "nas-bench-macro_cifar10.json"
    shape = (len(_MACRO_CHOICES),) * _MACRO_LAYERS
    names = ("accuracy_0", "accuracy_1", "accuracy_2", "flops", "params")
    columns = {name: np.full(shape, np.nan) for name in names}
    try:
        for key, row in msgspec.json.decode(path.read_bytes()).items():
            at = tuple(map(int, key))
            for seed, percent in enumerate(row["test_acc"]):
                columns[f"accuracy_{seed}"][at] = percent / 100
            columns["flops"][at] = row["flops"]
            columns["params"][at] = row["params"]
    except (OSError, LookupError, ValueError, TypeError, AttributeError) as error:
        raise _unreadable(path, "NAS-Bench-Macro", error) from error
    columns["accuracy"] = (
        columns["accuracy_0"] + columns["accuracy_1"] + columns["accuracy_2"]
    ) / 3
    _complete(path, columns)
    choices = {f"layer_{layer}": _MACRO_CHOICES for layer in range(_MACRO_LAYERS)}
    return TabularSpace("NAS-Bench-Macro", choices, columns)


def load_nas_bench_201(folder: Path) -> TabularSpace:
    """NAS-Bench-201 (Dong and Yang 2020): 6 edges of 5 operations on CIFAR-10, 15,625 cells.

    Columns: ``validation`` and ``test`` accuracy.

    Args:
        folder: Holds ``nasbench201_cifar10.csv``.

    Raises:
        DataError: The file is missing or does not hold the table.
    """
    path = folder / "nasbench201_cifar10.csv"
    shape = (len(_201_CHOICES),) * len(_201_EDGES)
    columns = {name: np.full(shape, np.nan) for name in ("validation", "test")}
    try:
        for row in _rows(path):
            operations = [
                edge.split("~")[0]
                for node in row["arch str"].split("+")
                for edge in node.strip("|").split("|")
            ]
            at = tuple(_201_CHOICES.index(operation) for operation in operations)
            for name, array in columns.items():
                array[at] = float(row[f"{name} accuracy"]) / 100
    except (OSError, LookupError, ValueError) as error:
        raise _unreadable(path, "NAS-Bench-201", error) from error
    _complete(path, columns)
    return TabularSpace(
        "NAS-Bench-201", {f"edge_{edge}": _201_CHOICES for edge in _201_EDGES}, columns
    )


def load_transnas_bench(folder: Path, space: Literal["macro", "micro"]) -> TabularSpace:
    """TransNAS-Bench-101 (Duan et al. 2021): every network trained on several tasks.

    The extracts number the networks and do not say how they are built, so that the number is the
    only decision. Columns: ``object``, ``scene`` and ``jigsaw`` top-1 accuracy, ``autoencoder``
    structural similarity, each of the test split; ``object_validation`` and
    ``jigsaw_validation`` to select by.

    Args:
        folder: Holds ``transbench101_class_object.csv`` and so on.
        space: ``macro`` has 3,256 networks, ``micro`` 4,096.

    Raises:
        DataError: A file is missing or does not hold the table.
    """
    sources = {
        "object": ("class_object", "test_top1", 100),
        "scene": ("class_scene", "test_top1", 100),
        "jigsaw": ("jigsaw", "test_top1", 100),
        "object_validation": ("class_object", "valid_top1", 100),
        "jigsaw_validation": ("jigsaw", "valid_top1", 100),
        "autoencoder": ("autoencoder", "test_ssim", 1),
    }
    kept = slice(0, _TRANSNAS_MACRO) if space == "macro" else slice(_TRANSNAS_MACRO, None)
    columns = {}
    for name, (task, column, scale) in sources.items():
        path = folder / f"transbench101_{task}.csv"
        array = np.full(_TRANSNAS_ALL, np.nan)
        try:
            for row in _rows(path):
                array[int(row["file_id"])] = float(row[column]) / scale
        except (OSError, LookupError, ValueError) as error:
            raise _unreadable(path, "TransNAS-Bench-101", error) from error
        _complete(path, {name: array})
        columns[name] = array[kept]
    count = len(columns["object"])
    choices = {"network": tuple(map(str, range(count)))}
    return TabularSpace(f"TransNAS-Bench-101 {space}", choices, columns)


def _rows(path: Path) -> Sequence[Mapping[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _complete(path: Path, columns: Mapping[str, NDArray[np.float64]]) -> None:
    missing = sum(int(np.isnan(array).sum()) for array in columns.values())
    if missing:
        raise DataError(
            f"{path} lacks {missing} values of the published table; take a whole copy of it"
        )


def _unreadable(path: Path, table: str, error: Exception) -> DataError:
    return DataError(f"{path} does not hold {table} ({error!r}); take a whole copy of it")
