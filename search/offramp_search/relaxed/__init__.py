"""Search with relaxed choices: gradients say how probable each choice should be."""

from offramp_search.relaxed._derive import by_probability
from offramp_search.relaxed._engine import relax
from offramp_search.relaxed._latency import AdditiveLatency
from offramp_search.relaxed._network import MixableNetwork, RelaxedObjectiveNetwork
from offramp_search.relaxed._recipe import RelaxedRecipe
from offramp_search.relaxed._unrolled import unrolled_gradients

__all__ = [
    "AdditiveLatency",
    "MixableNetwork",
    "RelaxedObjectiveNetwork",
    "RelaxedRecipe",
    "by_probability",
    "relax",
    "unrolled_gradients",
]
