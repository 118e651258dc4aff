from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import NSGAIISampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from offramp_search.samplers import RandomSampler, ReinforceSampler, ReseededSampler
from offramp_search.samplers._choices import index

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
    from optuna.study import Study

optuna.logging.set_verbosity(optuna.logging.ERROR)

DECISIONS: Mapping[str, BaseDistribution] = {
    **{f"width_{unit}": CategoricalDistribution(("1-7", "2-6", "4-4", "8-0")) for unit in range(5)},
    "depth": IntDistribution(2, 8, step=2),
}
BEST = {**{f"width_{unit}": "4-4" for unit in range(5)}, "depth": 6}

SAMPLERS: Mapping[str, Callable[[int], BaseSampler]] = {
    "random": RandomSampler,
    "reinforce table": ReinforceSampler,
    "reinforce lstm": lambda seed: ReinforceSampler(seed, policy="lstm"),
    "tpe": lambda seed: ReseededSampler(lambda s: TPESampler(seed=s, n_startup_trials=5), seed),
    "nsga2": lambda seed: ReseededSampler(lambda s: NSGAIISampler(seed=s, population_size=6), seed),
}


def value(architecture: Mapping[str, Any]) -> float:
    """A table: how many decisions are the best, with some that matter more."""
    return 0.5 + 0.01 * sum(
        (1 + place) * (architecture.get(name) == best)
        for place, (name, best) in enumerate(BEST.items())
    )


def run(study: Study, trials: int) -> list[dict[str, Any]]:
    """Ask and tell; every fifth trial is pruned, every seventh fails."""
    asked = []
    for _ in range(trials):
        trial = study.ask(fixed_distributions=dict(DECISIONS))
        asked.append(trial.params)
        if trial.number % 5 == 4:
            trial.set_constraint("mean_ms", 0.25)
            study.tell(trial, state=TrialState.PRUNED)
        elif trial.number % 7 == 6:
            study.tell(trial, state=TrialState.FAIL)
        else:
            study.tell(trial, value(trial.params))
    return asked


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_resumed_search_proposes_what_an_uninterrupted_one_would(
    name: str, tmp_path: Path
) -> None:
    def study(file: str) -> Study:
        return optuna.create_study(
            study_name="search",
            storage=JournalStorage(JournalFileBackend(str(tmp_path / file))),
            direction="maximize",
            sampler=SAMPLERS[name](7),
            load_if_exists=True,
        )

    straight = run(study("straight"), 30)
    resumed = run(study("resumed"), 15) + run(study("resumed"), 15)
    assert resumed == straight
    other = run(optuna.create_study(direction="maximize", sampler=SAMPLERS[name](8)), 30)
    assert other != straight


@pytest.mark.parametrize("name", SAMPLERS)
def test_proposals_are_varied_choices_of_the_space(name: str) -> None:
    study = optuna.create_study(direction="maximize", sampler=SAMPLERS[name](0))
    asked = run(study, 30)
    assert len({json.dumps(params) for params in asked}) > 10
    for params in asked:
        assert list(params) == list(DECISIONS)
        assert params["depth"] in (2, 4, 6, 8)
        assert params["width_0"] in ("1-7", "2-6", "4-4", "8-0")


@pytest.mark.parametrize("policy", ["table", "lstm"])
def test_proposals_of_one_trial_do_not_depend_on_when_others_finish(policy: Any) -> None:
    # Two workers: trial n + 1 is asked for before trial n is told.
    def work(sampler_of: Callable[[], BaseSampler]) -> list[dict[str, Any]]:
        study = optuna.create_study(direction="maximize", sampler=sampler_of())
        running = [study.ask(fixed_distributions=dict(DECISIONS))]
        for turn in range(14):
            running.append(study.ask(fixed_distributions=dict(DECISIONS)))
            finished = running.pop(turn % 2)
            study.tell(finished, value(finished.params))
            study.sampler = sampler_of()
        return [trial.params for trial in study.trials]

    kept = ReinforceSampler(3, policy=policy)
    assert work(lambda: kept) == work(lambda: ReinforceSampler(3, policy=policy))


def best_of(sampler: BaseSampler, trials: int) -> float:
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for _ in range(trials):
        trial = study.ask(fixed_distributions=dict(DECISIONS))
        study.tell(trial, value(trial.params))
    return study.best_value


def test_reinforce_is_better_than_random() -> None:
    # 4096 architectures, of which one is the best; means over 10 seeds differ by about 0.04.
    reinforce = np.mean([best_of(ReinforceSampler(seed), 80) for seed in range(10)])
    random = np.mean([best_of(RandomSampler(seed), 80) for seed in range(10)])
    assert reinforce > random + 0.01


def test_reinforce_needs_no_scale() -> None:
    def asked(scale: float) -> list[dict[str, Any]]:
        study = optuna.create_study(direction="maximize", sampler=ReinforceSampler(1))
        for _ in range(25):
            trial = study.ask(fixed_distributions=dict(DECISIONS))
            study.tell(trial, scale * value(trial.params))
        return [trial.params for trial in study.trials]

    assert asked(1.0) == asked(128.0)


def test_reinforce_minimises_too() -> None:
    def asked(direction: Any, sign: float) -> list[dict[str, Any]]:
        study = optuna.create_study(direction=direction, sampler=ReinforceSampler(1))
        for _ in range(25):
            trial = study.ask(fixed_distributions=dict(DECISIONS))
            study.tell(trial, sign * value(trial.params))
        return [trial.params for trial in study.trials]

    assert asked("minimize", -1.0) == asked("maximize", 1.0)


@pytest.mark.parametrize("policy", ["table", "lstm"])
@pytest.mark.parametrize("state", [TrialState.PRUNED, TrialState.FAIL])
def test_broken_constraints_teach_what_to_avoid_and_failures_do_not(
    policy: Any, state: TrialState
) -> None:
    study = optuna.create_study(
        direction="maximize", sampler=ReinforceSampler(0, policy=policy, learning_rate=0.05)
    )
    choices = {"width": CategoricalDistribution(("narrow", "wide"))}
    asked = []
    for _ in range(150):
        trial = study.ask(fixed_distributions=dict(choices))
        asked.append(trial.params["width"])
        trial.set_constraint("mean_ms", 1.0 if asked[-1] == "wide" else -0.5)
        if asked[-1] == "wide":
            study.tell(trial, state=state)
        else:
            study.tell(trial, 0.5)
    if state is TrialState.PRUNED:
        assert asked[-50:].count("wide") < 10
    else:
        assert asked[-50:].count("wide") > 15


def test_failed_trials_teach_nothing() -> None:
    def ask(study: Study) -> list[dict[str, Any]]:
        return [study.ask(fixed_distributions=dict(DECISIONS)).params for _ in range(9)]

    def next_proposals(failures: int) -> list[dict[str, Any]]:
        study = optuna.create_study(direction="maximize", sampler=ReinforceSampler(0))
        for number in range(20):
            trial = study.ask(fixed_distributions=dict(DECISIONS))
            if number < 20 - failures:
                study.tell(trial, value(trial.params))
            else:
                study.tell(trial, state=TrialState.FAIL)
        return ask(study)

    def without_the_failures() -> list[dict[str, Any]]:
        study = optuna.create_study(direction="maximize", sampler=ReinforceSampler(0))
        for _ in range(10):
            trial = study.ask(fixed_distributions=dict(DECISIONS))
            study.tell(trial, value(trial.params))
        for _ in range(10):
            study.add_trial(optuna.trial.create_trial(state=TrialState.FAIL))
        return ask(study)

    assert next_proposals(10) == without_the_failures()
    assert next_proposals(10) != next_proposals(0)


@pytest.mark.parametrize("policy", ["table", "lstm"])
def test_a_decision_costs_no_more_after_many(policy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is read once for the next one, and once to learn from."""
    read = []

    def counted(distribution: Any, value: object) -> int:
        read.append(value)
        return index(distribution, value)

    monkeypatch.setattr("offramp_search.samplers._reinforce.index", counted)
    study = optuna.create_study(sampler=ReinforceSampler(0, policy=policy), direction="maximize")
    for trial in (study.ask(), study.ask()):
        for at in range(50):
            trial.suggest_categorical(f"decision {at}", ["a", "b", "c"])
        study.tell(trial, 1.0)
    study.ask()
    assert len(read) == 2 * (49 + 50)


@pytest.mark.parametrize("policy", ["table", "lstm"])
def test_decisions_may_be_absent(policy: Any) -> None:
    study = optuna.create_study(
        direction="maximize", sampler=ReinforceSampler(0, policy=policy, learning_rate=0.05)
    )
    kinds = []
    for _ in range(150):
        trial = study.ask()
        kinds.append(trial.suggest_categorical("kind", ("plain", "deep")))
        score = 0.0
        if kinds[-1] == "deep":
            score = 0.5 + 0.1 * trial.suggest_int("blocks", 1, 4)
        study.tell(trial, score)
    assert kinds[-50:].count("deep") > 40
    assert {"kind"} in [set(trial.params) for trial in study.trials]


def test_what_cannot_be_sampled_is_refused() -> None:
    study = optuna.create_study(sampler=ReinforceSampler(0))
    with pytest.raises(ValueError, match="'rate' is a FloatDistribution"):
        study.ask(fixed_distributions={"rate": FloatDistribution(0, 1)})
    several = optuna.create_study(directions=["maximize", "minimize"], sampler=ReinforceSampler(0))
    with pytest.raises(ValueError, match="several directions"):
        several.ask()
    with pytest.raises(ValueError, match="expected 'table' or 'lstm'"):
        ReinforceSampler(0, policy="gru")  # type: ignore[arg-type]


def test_reinforce_on_nas_bench_macro(data_folder: Path) -> None:
    """Mean regret of 100 evaluations, accuracy less ten times relative multiply-adds.

    Over 20 seeds the ratio to random search is about 0.3; the goal is 0.6.
    """
    file = data_folder / "nasbench" / "nas-bench-macro_cifar10.json"
    if not file.is_file():
        pytest.skip(f"no {file}")
    table = json.loads(file.read_text())
    most = max(row["flops"] for row in table.values())
    rewards = {key: row["mean_acc"] - 10 * row["flops"] / most for key, row in table.items()}
    layers: dict[str, BaseDistribution] = {
        f"layer_{layer}": CategoricalDistribution(("0", "1", "2")) for layer in range(8)
    }

    def regret(sampler: BaseSampler) -> float:
        study = optuna.create_study(direction="maximize", sampler=sampler)
        for _ in range(100):
            trial = study.ask(fixed_distributions=layers)
            study.tell(trial, rewards["".join(trial.params.values())])
        return float(max(rewards.values()) - study.best_value)

    reinforce = np.mean([regret(ReinforceSampler(seed)) for seed in range(20)])
    random = np.mean([regret(RandomSampler(seed)) for seed in range(20)])
    assert reinforce <= 0.6 * random
