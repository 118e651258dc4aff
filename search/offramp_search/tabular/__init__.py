"""Published tables of trained networks, on which a search method is compared in seconds.

A table holds the accuracy of every architecture of a small space, so that an evaluation is a
look-up. The tables are files that are not part of the project.
"""

from offramp_search.tabular._base import TabularSpace
from offramp_search.tabular._load import (
    load_nas_bench_201,
    load_nas_bench_macro,
    load_transnas_bench,
)
from offramp_search.tabular._run import TabularTrial, best_of, run

__all__ = [
    "TabularSpace",
    "TabularTrial",
    "best_of",
    "load_nas_bench_201",
    "load_nas_bench_macro",
    "load_transnas_bench",
    "run",
]
