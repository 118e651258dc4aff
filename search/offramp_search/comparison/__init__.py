"""Finished searches side by side: what each found, at what cost, and how good its front is."""

from offramp_search.comparison._front import hypervolume, pareto_front
from offramp_search.comparison._runs import ComparedRun, compare_runs, plot_runs

__all__ = ["ComparedRun", "compare_runs", "hypervolume", "pareto_front", "plot_runs"]
