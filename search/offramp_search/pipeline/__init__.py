"""From images to a certified bundle, in steps that each leave a file and are not done twice."""

from offramp_search.pipeline._context import load_splits
from offramp_search.pipeline._label_free import search_label_free
from offramp_search.pipeline._measure import Measured, measure_interleaved
from offramp_search.pipeline._outcome import Outcome, Row
from offramp_search.pipeline._present import (
    CHECK_COLUMNS,
    COLUMNS,
    as_figures,
    check_rows,
    correction_line,
    plot_outcome,
    table_rows,
)
from offramp_search.pipeline._reporter import Reporter
from offramp_search.pipeline._run import run_pipeline
from offramp_search.pipeline._samplers import Method, make_sampler
from offramp_search.pipeline._settings import Settings
from offramp_search.pipeline._supernet import random_architecture, static_network

__all__ = [
    "CHECK_COLUMNS",
    "COLUMNS",
    "Measured",
    "Method",
    "Outcome",
    "Reporter",
    "Row",
    "Settings",
    "as_figures",
    "check_rows",
    "correction_line",
    "load_splits",
    "make_sampler",
    "measure_interleaved",
    "plot_outcome",
    "random_architecture",
    "run_pipeline",
    "search_label_free",
    "static_network",
    "table_rows",
]
