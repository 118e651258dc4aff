"""The search loop: ask, refuse or evaluate, solve the thresholds, tell; resumable at any point."""

from offramp_search.engine._base import Engine, LostEvaluationError
from offramp_search.engine._confirm import Check, Confirmed, confirm, corrected, measure_whole
from offramp_search.engine._feasible import find_feasible
from offramp_search.engine._local import LocalEngine
from offramp_search.engine._ray import RayEngine
from offramp_search.engine._result import SearchProgress, SearchResult, TrialResult, read_result
from offramp_search.engine._search import search

__all__ = [
    "Check",
    "Confirmed",
    "Engine",
    "LocalEngine",
    "LostEvaluationError",
    "RayEngine",
    "SearchProgress",
    "SearchResult",
    "TrialResult",
    "confirm",
    "corrected",
    "find_feasible",
    "measure_whole",
    "read_result",
    "search",
]
