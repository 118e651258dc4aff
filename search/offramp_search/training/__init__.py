"""Joint training of all exits, for any network that maps images to a tuple of logits."""

from offramp_search.training._evaluate import accuracies, evaluate
from offramp_search.training._fabric import Hardware, fastest_precision
from offramp_search.training._history import EpochRecord, History, TrainingProgress
from offramp_search.training._loss import joint_loss
from offramp_search.training._optimizer import make_optimizer
from offramp_search.training._recipe import Recipe
from offramp_search.training._train import train

__all__ = [
    "EpochRecord",
    "Hardware",
    "History",
    "Recipe",
    "TrainingProgress",
    "accuracies",
    "evaluate",
    "fastest_precision",
    "joint_loss",
    "make_optimizer",
    "train",
]
