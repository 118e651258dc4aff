"""Evaluators, one module each, behind one interface."""

from offramp_search.evaluators._base import Evaluator, Outputs
from offramp_search.evaluators._exits import SelectableNetwork, exit_features, fit_exits
from offramp_search.evaluators._fine_tune import FineTune
from offramp_search.evaluators._fit_exit import LinearExit, fit_exit
from offramp_search.evaluators._objective import ObjectiveFineTune, ObjectiveSharedWeights
from offramp_search.evaluators._recalibrate import recalibrate
from offramp_search.evaluators._shared_weights import SharedWeights

__all__ = [
    "Evaluator",
    "FineTune",
    "LinearExit",
    "ObjectiveFineTune",
    "ObjectiveSharedWeights",
    "Outputs",
    "SelectableNetwork",
    "SharedWeights",
    "exit_features",
    "fit_exit",
    "fit_exits",
    "recalibrate",
]
