"""Thresholds, solved for a budget: no sampler ever chooses one."""

from offramp_search.thresholds._answers import Answers
from offramp_search.thresholds._solve import Solution, curve, solve, solve_answers

__all__ = ["Answers", "Solution", "curve", "solve", "solve_answers"]
