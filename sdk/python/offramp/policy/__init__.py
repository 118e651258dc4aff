"""When to stop: the policy of a program and the exit rule that applies it."""

from offramp.bundle import Policy
from offramp.policy._decider import Decider, make_decider
from offramp.policy._rule import (
    FEW_CLASSES,
    Logits,
    abstains,
    answers,
    choose_exits,
    probabilities,
    signal_values,
    top_class,
    top_probabilities,
)

__all__ = [
    "FEW_CLASSES",
    "Decider",
    "Logits",
    "Policy",
    "abstains",
    "answers",
    "choose_exits",
    "make_decider",
    "probabilities",
    "signal_values",
    "top_class",
    "top_probabilities",
]
