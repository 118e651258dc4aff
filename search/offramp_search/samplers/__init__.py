"""Samplers: what proposes the next architecture, one module each, behind Optuna's interface.

A sampler here is a pure function of its seed and the finished trials, so that a resumed search
proposes what the uninterrupted one would have proposed.
"""

from offramp_search.samplers._ddpnas import DDPNASSampler
from offramp_search.samplers._evolution import EvolutionSampler
from offramp_search.samplers._optuna import nsga2_sampler, tpe_sampler
from offramp_search.samplers._pnas import PNASSampler
from offramp_search.samplers._random import RandomSampler
from offramp_search.samplers._reinforce import ReinforceSampler
from offramp_search.samplers._reseeded import ReseededSampler
from offramp_search.samplers._starting import StartingSampler

__all__ = [
    "DDPNASSampler",
    "EvolutionSampler",
    "PNASSampler",
    "RandomSampler",
    "ReinforceSampler",
    "ReseededSampler",
    "StartingSampler",
    "nsga2_sampler",
    "tpe_sampler",
]
