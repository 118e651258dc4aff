from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution

from offramp_search.samplers import PNASSampler
from offramp_search.samplers._surrogates import predict_ensemble
from offramp_search.tabular import TabularSpace, run

LAYERS = 5
CHOICES = ("a", "b", "c")
NEUTRAL = {f"layer_{at}": "a" for at in range(LAYERS)}
SPACE = TabularSpace(
    "sum",
    dict.fromkeys(NEUTRAL, CHOICES),
    {
        "value": np.array([sum(at) for at in product(range(3), repeat=LAYERS)], float).reshape(
            (3,) * LAYERS
        )
    },
)


def search(trials: int, **options: Any) -> list[tuple[str, ...]]:
    sampler = PNASSampler(0, SPACE.decisions(), neutral=NEUTRAL, **options)
    done = run(SPACE, sampler, lambda a: SPACE.look_up("value", a), evaluations=trials)
    return [tuple(map(str, trial.architecture.values())) for trial in done]


@pytest.mark.parametrize("surrogate", ["mlp", "lstm"])
def test_each_level_frees_one_more_decision(surrogate: str) -> None:
    asked = search(9 + 3 * 4, beam=4, surrogate=surrogate)
    assert set(asked[:9]) == {(*head, "a", "a", "a") for head in product(CHOICES, repeat=2)}
    for level, freed in enumerate((3, 4, 5)):
        for architecture in asked[9 + 4 * level : 13 + 4 * level]:
            assert set(architecture[freed:]) <= {"a"}
    assert len(set(asked)) == len(asked)


def test_the_surrogate_finds_the_best_of_a_sum() -> None:
    # 243 architectures; each layer is best at c.
    assert ("c",) * LAYERS in search(9 + 3 * 4 + 8, beam=4)


def test_what_is_not_allowed_is_never_proposed() -> None:
    seen: list[tuple[str, ...]] = []

    def allowed(architecture: Any) -> bool:
        seen.append(tuple(architecture.values()))
        return list(architecture.values()).count("c") <= 2

    asked = search(30, beam=4, allowed=allowed)
    assert max(architecture.count("c") for architecture in asked) == 2
    assert any(architecture.count("c") > 2 for architecture in seen)


def test_architectures_that_are_the_same_network_are_proposed_once() -> None:
    asked = search(25, beam=4, canonical=lambda architecture: tuple(sorted(architecture.values())))
    # 21 multisets of three kinds in five places; then the best is proposed again.
    forms = [tuple(sorted(architecture)) for architecture in asked]
    assert len(set(forms)) == len(set(asked)) <= 21


def test_of_equal_values_the_cheaper_comes_first() -> None:
    space = TabularSpace("flat", SPACE.choices, {"value": np.zeros((3,) * LAYERS)})

    def cost(architecture: Any) -> float:
        return float(list(architecture.values()).count("a"))

    sampler = PNASSampler(0, space.decisions(), neutral=NEUTRAL, beam=2, cost=cost)
    done = run(space, sampler, lambda a: space.look_up("value", a), evaluations=9 + 6)
    last = [tuple(trial.architecture.values()) for trial in done[-2:]]
    assert all("a" not in architecture for architecture in last)


@pytest.mark.parametrize("surrogate", ["mlp", "lstm"])
def test_an_absent_unit_is_not_read(surrogate: Any) -> None:
    # Two decisions a unit; a unit that begins with 2 is absent, whatever comes after.
    rng = np.random.default_rng(0)
    known = rng.integers(0, 3, (40, 6))
    known[:, 0] %= 2
    values = known[:, :2].sum(1) + rng.normal(0, 0.01, 40)
    short = np.array([[1, 2, 2, 0, 2, 0]])
    predicted = [
        predict_ensemble(
            surrogate,
            known,
            values,
            short + np.array([[0, 0, 0, more, 0, more]]),
            vocabularies=[0] * 6,
            units=(2, 2, 2),
            absent=[-1, -1, 2, -1, 2, -1],
            seed=0,
        )
        for more in (0, 2)
    ]
    assert predicted[0] == predicted[1]


def test_units_are_freed_together() -> None:
    asked = search(9 + 4, beam=4, units=(2, 1, 2), first=1)
    assert set(asked[:9]) == {(*head, "a", "a", "a") for head in product(CHOICES, repeat=2)}
    assert {architecture[3:] for architecture in asked[9:]} <= {("a", "a")}
    with pytest.raises(ValueError, match=r"share out all 5 decisions, got \(2, 2\)"):
        search(1, units=(2, 2))


def test_a_space_that_is_used_up_repeats_its_best() -> None:
    decisions = {"only": CategoricalDistribution(CHOICES)}
    space = TabularSpace("tiny", {"only": CHOICES}, {"value": np.array([0.0, 2.0, 1.0])})
    sampler = PNASSampler(0, decisions, neutral={"only": "a"})
    done = run(space, sampler, lambda a: space.look_up("value", a), evaluations=6)
    asked = [trial.architecture["only"] for trial in done]
    assert sorted(map(str, asked[:3])) == ["a", "b", "c"]
    assert asked[3:] == ["b", "b", "b"]


def test_bad_settings_are_named() -> None:
    decisions = SPACE.decisions()
    with pytest.raises(ValueError, match="lacks the decision 'layer_4'"):
        PNASSampler(0, decisions, neutral={f"layer_{at}": "a" for at in range(4)})
    with pytest.raises(ValueError, match="must be at least 1, got 0"):
        PNASSampler(0, decisions, neutral=NEUTRAL, beam=0)
    with pytest.raises(ValueError, match="expected 'mlp' or 'lstm'"):
        PNASSampler(0, decisions, neutral=NEUTRAL, surrogate="forest")  # type: ignore[arg-type]
    study = optuna.create_study(sampler=PNASSampler(0, decisions, neutral=NEUTRAL))
    with pytest.raises(ValueError, match=r"'layer_9' .* is not in the space"):
        study.ask(fixed_distributions={"layer_9": CategoricalDistribution(("a", "b"))})
