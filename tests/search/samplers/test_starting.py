from __future__ import annotations

from typing import TYPE_CHECKING

import optuna
import pytest
from optuna.distributions import CategoricalDistribution

from offramp_search.samplers import DDPNASSampler, RandomSampler, StartingSampler

if TYPE_CHECKING:
    from collections.abc import Mapping

    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
    from optuna.study import Study

DECISIONS: Mapping[str, BaseDistribution] = {
    name: CategoricalDistribution(("a", "b", "c")) for name in ("one", "two")
}
FIRST = ({"one": "c", "two": "b"}, {"one": "a", "two": "a"})


def propose(sampler: BaseSampler, trials: int) -> list[dict[str, str]]:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study: Study = optuna.create_study(direction="maximize", sampler=sampler)
    asked = []
    for _ in range(trials):
        trial = study.ask(fixed_distributions=dict(DECISIONS))
        asked.append(trial.params)
        study.tell(trial, 1.0)
    return asked


def test_the_first_proposals_are_those_given() -> None:
    sampler = StartingSampler(RandomSampler(0), FIRST)
    assert propose(sampler, 5)[:2] == list(FIRST)
    assert str(sampler) == "RandomSampler(seed=0), after [['c', 'b'], ['a', 'a']]"


def test_the_plan_of_ddpnas_begins_after_them() -> None:
    alone = propose(DDPNASSampler(3, DECISIONS), 20)
    after = propose(StartingSampler(DDPNASSampler(3, DECISIONS, after=2), FIRST), 22)
    assert after[2:11] == alone[:9]  # the first three fair rounds


def test_an_architecture_of_another_space_is_refused() -> None:
    sampler = StartingSampler(RandomSampler(0), [{"one": "a"}])
    with pytest.raises(ValueError, match="architecture 0 to begin with lacks the decision 'two'"):
        propose(sampler, 1)
