"""Results: a JSON file with where it comes from, and a plot."""

from offramp_search.report._plot import Point, plot_tradeoff
from offramp_search.report._result import Claim, write_result

__all__ = ["Claim", "Point", "plot_tradeoff", "write_result"]
