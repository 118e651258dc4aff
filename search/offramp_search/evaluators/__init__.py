"""Evaluators, one module each, behind one interface."""

from offramp_search.evaluators._base import Evaluator, Outputs

__all__ = ["Evaluator", "Outputs"]
