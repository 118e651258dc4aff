"""Thresholds, solved for a budget: no sampler ever chooses one."""

from offramp_search.thresholds._solve import Solution, curve, solve

__all__ = ["Solution", "curve", "solve"]
