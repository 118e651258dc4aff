from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
import pytest

from offramp_search.samplers import DDPNASSampler
from offramp_search.tabular import TabularSpace, run

if TYPE_CHECKING:
    from collections.abc import Sequence

SIZES = (2, 8, 5, 3, 8)


def make_space(sizes: Sequence[int]) -> TabularSpace:
    """The value of an architecture is the sum of its numbers, made a fraction."""
    value = sum(np.ix_(*(np.arange(size) / sum(sizes) for size in sizes)), np.zeros(tuple(sizes)))
    choices = {f"unit_{at}": tuple(map(str, range(size))) for at, size in enumerate(sizes)}
    return TabularSpace("sum", choices, {"value": value})


def search(space: TabularSpace, trials: int, **options: Any) -> list[tuple[int, ...]]:
    sampler = DDPNASSampler(0, space.decisions(), **options)
    done = run(space, sampler, lambda a: space.look_up("value", a), evaluations=trials)
    return [tuple(int(choice) for choice in trial.architecture.values()) for trial in done]


def differences(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    return sum(a != b for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("update", ["decay", "momentum"])
@pytest.mark.parametrize("rounds", [1, 3])
def test_one_architecture_is_left_after_the_published_number_of_rounds(
    update: str, rounds: int
) -> None:
    space = make_space(SIZES)
    length = DDPNASSampler.length(space.decisions(), rounds=rounds)
    assert length == rounds * sum(range(2, 9))
    asked = search(space, length + 5, rounds=rounds, update=update)
    survivor, *later = asked[length:]
    assert len(set(later) - set(asked[:length])) == 4
    assert {differences(survivor, architecture) for architecture in later} == {1}
    at = 0
    for size in range(8, 1, -1):
        for _ in range(rounds):
            fair = asked[at : at + size]
            for unit, choices in enumerate(SIZES):
                uses = Counter(architecture[unit] for architecture in fair)
                assert len(uses) == min(size, choices)
                assert max(uses.values()) - min(uses.values()) <= 1
            at += size


def test_the_best_choices_survive() -> None:
    space = make_space((4, 4, 4, 4))
    length = DDPNASSampler.length(space.decisions(), rounds=10)
    survivor = search(space, length + 1, rounds=10)[-1]
    assert sum(survivor) >= 10


def test_a_share_of_the_choices_may_go_at_once() -> None:
    decisions = make_space((21, 3)).decisions()
    assert DDPNASSampler.length(decisions, rounds=1, removed_share=0.5) == 21 + 11 + 6 + 3 + 2
    asked = search(make_space((21, 3)), 45, rounds=1, removed_share=0.5)
    assert differences(asked[43], asked[44]) == 1


def test_nothing_is_evaluated_twice_until_all_is_known() -> None:
    asked = search(make_space((3, 3, 3)), 24, rounds=1)
    assert len(set(asked[5:])) == 19
    small = search(make_space((2, 2)), 12, rounds=1)
    assert set(small) == {(0, 0), (0, 1), (1, 0), (1, 1)}
    assert len(set(small[-6:])) == 1  # the survivor again, which costs no evaluation


def test_its_answer_is_the_survivor() -> None:
    space = make_space((4, 4))
    sampler = DDPNASSampler(0, space.decisions(), rounds=1)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for _ in range(9):
        assert sampler.answer(study) is None
        trial = study.ask(fixed_distributions=dict(space.decisions()))
        study.tell(trial, space.look_up("value", trial.params))
    survivor = study.ask(fixed_distributions=dict(space.decisions()))
    assert sampler.answer(study) == survivor.params


def test_a_group_keeps_a_choice_while_another_has_two() -> None:
    space = make_space((4, 4))
    groups = {name: {"0": "low", "1": "low", "2": "high", "3": "high"} for name in space.choices}
    asked = search(space, 4 * 9, rounds=4, groups=groups)
    before_the_last_pruning = asked[-8:]
    for unit in range(2):
        left = {architecture[unit] for architecture in before_the_last_pruning}
        assert len(left & {0, 1}) == len(left & {2, 3}) == 1


def test_what_is_left_keeps_the_limit() -> None:
    space = make_space((4, 4, 4))

    def cost(architecture: Any) -> float:
        return float(sum(int(choice) ** 2 for choice in architecture.values()))

    options: dict[str, Any] = {"rounds": 4}
    length = DDPNASSampler.length(space.decisions(), rounds=4)
    free = search(space, length + 1, **options)[-1]
    for limit in (10.0, 3.0, 0.0):
        kept = search(space, length + 1, cost=cost, limit=limit, **options)[-1]
        assert sum(choice**2 for choice in kept) <= limit
    assert sum(choice**2 for choice in free) > 10
    # Nothing keeps it: pruning goes on, and the engine refuses what is left.
    assert len(search(space, length + 1, cost=cost, limit=-1.0, **options)) == length + 1


def test_rounds_are_drawn_again_until_all_of_one_is_allowed() -> None:
    space = make_space((3, 3))

    def allowed(architecture: Any) -> bool:
        return set(architecture.values()) != {"2"}

    for rounds in (1, 4):
        asked = search(space, 3 * rounds, rounds=rounds, allowed=allowed)
        assert (2, 2) not in asked
        assert Counter(architecture[0] for architecture in asked) == dict.fromkeys(range(3), rounds)


def test_choices_that_were_always_refused_go_first() -> None:
    space = make_space((3, 3))
    sampler = DDPNASSampler(0, space.decisions(), rounds=3)
    done = run(
        space,
        sampler,
        lambda a: space.look_up("value", a),
        evaluations=14,
        excess=lambda a: float(a["unit_0"] == "2"),
    )
    # The rounds count refused proposals too: 9 asked, of which 3 refused; then none has a 2.
    assert all(trial.architecture["unit_0"] != "2" for trial in done)


def test_bad_settings_are_named() -> None:
    decisions = make_space((2, 2)).decisions()
    for options in ({"rounds": 0}, {"sharpness": 0.0}, {"removed_share": 1.0}):
        with pytest.raises(ValueError, match="expected rounds of at least 1"):
            DDPNASSampler(0, decisions, **options)
    with pytest.raises(ValueError, match="expected 'decay' or 'momentum'"):
        DDPNASSampler(0, decisions, update="adam")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="has no decisions"):
        DDPNASSampler(0, {})
