"""Evaluators, one module each, behind one interface."""

from offramp_search.evaluators._base import Evaluator, Outputs
from offramp_search.evaluators._fine_tune import FineTune
from offramp_search.evaluators._recalibrate import recalibrate
from offramp_search.evaluators._shared_weights import SelectableNetwork, SharedWeights

__all__ = [
    "Evaluator",
    "FineTune",
    "Outputs",
    "SelectableNetwork",
    "SharedWeights",
    "recalibrate",
]
