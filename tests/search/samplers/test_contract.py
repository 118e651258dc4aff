from __future__ import annotations

from typing import TYPE_CHECKING

import optuna
import pytest
from optuna.distributions import CategoricalDistribution

from offramp_search.samplers import (
    DDPNASSampler,
    EvolutionSampler,
    PNASSampler,
    RandomSampler,
    ReinforceSampler,
    StartingSampler,
    nsga2_sampler,
    tpe_sampler,
)
from offramp_search.testing import SamplerContract

if TYPE_CHECKING:
    from collections.abc import Mapping

    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler


class TestRandom(SamplerContract):
    def make_sampler(self, seed: int, decisions: Mapping[str, BaseDistribution]) -> BaseSampler:
        return RandomSampler(seed)


class TestReinforceTable(SamplerContract):
    def make_sampler(self, seed: int, decisions: Mapping[str, BaseDistribution]) -> BaseSampler:
        return ReinforceSampler(seed)


class TestReinforceLSTM(SamplerContract):
    def make_sampler(self, seed: int, decisions: Mapping[str, BaseDistribution]) -> BaseSampler:
        return ReinforceSampler(seed, policy="lstm")


class TestEvolution(SamplerContract):
    def make_sampler(self, seed: int, decisions: Mapping[str, BaseDistribution]) -> BaseSampler:
        return EvolutionSampler(seed, population=8)


class TestTPE(SamplerContract):
    def make_sampler(self, seed: int, decisions: Mapping[str, BaseDistribution]) -> BaseSampler:
        return tpe_sampler(seed, startup=5)


class TestNSGA2(SamplerContract):
    def make_sampler(self, seed: int, decisions: Mapping[str, BaseDistribution]) -> BaseSampler:
        return nsga2_sampler(seed, population=6)


NEUTRAL: dict[str, str | int] = {**{f"width_{unit}": "2-6" for unit in range(5)}, "depth": 4}


class TestPNAS(SamplerContract):
    def make_sampler(self, seed: int, decisions: Mapping[str, BaseDistribution]) -> BaseSampler:
        return PNASSampler(seed, decisions, neutral=NEUTRAL, beam=10, most_first=6)


class TestPNASWithLSTM(SamplerContract):
    def make_sampler(self, seed: int, decisions: Mapping[str, BaseDistribution]) -> BaseSampler:
        return PNASSampler(
            seed, decisions, neutral=NEUTRAL, beam=14, most_first=6, step=2, surrogate="lstm"
        )


class TestDDPNAS(SamplerContract):
    def make_sampler(self, seed: int, decisions: Mapping[str, BaseDistribution]) -> BaseSampler:
        return DDPNASSampler(seed, decisions, rounds=2)


class TestDDPNASWithMomentum(SamplerContract):
    def make_sampler(self, seed: int, decisions: Mapping[str, BaseDistribution]) -> BaseSampler:
        return DDPNASSampler(seed, decisions, rounds=2, update="momentum", removed_share=0.5)


def test_evolution_changes_one_decision_of_a_young_parent() -> None:
    decisions = {f"layer_{at}": CategoricalDistribution(("a", "b", "c")) for at in range(6)}
    study = optuna.create_study(
        direction="maximize", sampler=EvolutionSampler(0, population=5, tournament=5)
    )
    asked = []
    for _ in range(40):
        trial = study.ask(fixed_distributions=dict(decisions))
        asked.append(trial.params)
        study.tell(trial, sum(choice == "c" for choice in trial.params.values()))
    for number in range(5, 40):
        young = study.trials[number - 5 : number]
        parent = max(young, key=lambda trial: trial.values[0])
        changed = [
            name
            for name in decisions
            if asked[number][name] != study.trials[parent.number].params[name]
        ]
        assert len(changed) == 1


def test_a_tournament_is_no_larger_than_the_population() -> None:
    with pytest.raises(ValueError, match="from 1 to population, got 5 of 4"):
        EvolutionSampler(0, population=4, tournament=5)


FIRST: tuple[dict[str, str | int], ...] = (NEUTRAL, {**NEUTRAL, "depth": 8})


class TestReinforceAfterOthers(SamplerContract):
    def make_sampler(self, seed: int, decisions: Mapping[str, BaseDistribution]) -> BaseSampler:
        return StartingSampler(ReinforceSampler(seed), FIRST)


class TestDDPNASAfterOthers(SamplerContract):
    def make_sampler(self, seed: int, decisions: Mapping[str, BaseDistribution]) -> BaseSampler:
        return StartingSampler(DDPNASSampler(seed, decisions, rounds=2, after=2), FIRST)
