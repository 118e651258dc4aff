"""Evaluators, one module each, behind one interface."""

from offramp_search.evaluators._base import Evaluator, Outputs
from offramp_search.evaluators._exits import SelectableNetwork, exit_features, fit_exits
from offramp_search.evaluators._fine_tune import FineTune
from offramp_search.evaluators._fit_exit import LinearExit, fit_exit
from offramp_search.evaluators._heads import FittedExits, HeadedNetwork, fit_all_exits
from offramp_search.evaluators._objective import ObjectiveFineTune, ObjectiveSharedWeights
from offramp_search.evaluators._recalibrate import recalibrate
from offramp_search.evaluators._shared_weights import SharedWeights
from offramp_search.evaluators._train_head import HEAD_RECIPE, train_head

__all__ = [
    "HEAD_RECIPE",
    "Evaluator",
    "FineTune",
    "FittedExits",
    "HeadedNetwork",
    "LinearExit",
    "ObjectiveFineTune",
    "ObjectiveSharedWeights",
    "Outputs",
    "SelectableNetwork",
    "SharedWeights",
    "exit_features",
    "fit_all_exits",
    "fit_exit",
    "fit_exits",
    "recalibrate",
    "train_head",
]
