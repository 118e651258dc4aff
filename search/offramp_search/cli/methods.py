"""The command ``offramp methods``."""

# ruff: noqa: TC001 - typer reads the annotations at run time
from __future__ import annotations

from offramp.cli import console
from offramp_search.cli._options import JsonOption

__all__ = ["METHODS", "methods"]

_ANY = ("static_transform or cell", "shared weights, or short training for cell")
_LABEL_FREE = (
    "static_transform or cell",
    "jigsaw, rotation or colorization, on shared weights",
)

METHODS = tuple(
    {"method": method, "space": space, "sampler": sampler, "evaluator": evaluator, "source": source}
    for method, sampler, (space, evaluator), source in (
        ("s2dnas", "REINFORCE", _ANY, "Yuan et al. 2020, arXiv 1911.07033"),
        ("pnas", "level by level, surrogate", _ANY, "Liu et al. 2018, arXiv 1712.00559"),
        ("ddpnas", "distribution pruning", _ANY, "Zheng et al. 2019, arXiv 1905.13543"),
        ("unnas", "DARTS over relaxed choices", _LABEL_FREE, "Liu et al. 2020, arXiv 2003.12056"),
        ("evolution", "regularised evolution", _ANY, "Real et al. 2019, arXiv 1802.01548"),
        ("tpe", "tree of Parzen estimators", _ANY, "Bergstra et al. 2011; Optuna's"),
        ("nsga2", "NSGA-II", _ANY, "Deb et al. 2002; Optuna's"),
        ("random", "uniform", _ANY, "baseline"),
    )
)


def methods(as_json: JsonOption = False) -> None:
    """List the search methods: what they search, how, and where they come from."""
    columns = list(METHODS[0])
    console.emit(
        as_json,
        METHODS,
        lambda: console.table(
            columns, [[entry[column] for column in columns] for entry in METHODS]
        ),
    )
