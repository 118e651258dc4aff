"""Optuna's own samplers as baselines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from optuna.samplers import NSGAIISampler, TPESampler

from offramp_search.samplers._reseeded import ReseededSampler

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

__all__ = ["nsga2_sampler", "tpe_sampler"]


def tpe_sampler(seed: int, *, startup: int = 10) -> ReseededSampler:
    """Tree-structured Parzen estimator (Bergstra et al. 2011) over all decisions jointly.

    Args:
        seed: Not negative.
        startup: Random proposals before the first that is not.
    """

    def make(trial_seed: int) -> BaseSampler:
        return TPESampler(seed=trial_seed, n_startup_trials=startup, multivariate=True)

    return ReseededSampler(make, seed, name=f"TPE, {startup} at random")


def nsga2_sampler(seed: int, *, population: int = 16) -> ReseededSampler:
    """NSGA-II (Deb et al. 2002); with one value it is an evolution with crossover.

    Args:
        seed: Not negative.
        population: Of a generation; Optuna's 50 would leave a short search at random.
    """

    def make(trial_seed: int) -> BaseSampler:
        return NSGAIISampler(seed=trial_seed, population_size=population)

    return ReseededSampler(make, seed, name=f"NSGA-II, population {population}")
