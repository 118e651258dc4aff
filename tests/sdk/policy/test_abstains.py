"""An answer is withheld below the signal, and never without one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from offramp.policy import abstains

if TYPE_CHECKING:
    from collections.abc import Callable

    from offramp.bundle import Policy

SURE = np.array([0.8, 0.15, 0.05])


@pytest.mark.parametrize(
    ("signal", "value"), [("max_probability", 0.8), ("margin", 0.8 - 0.15), ("entropy", 0.4416)]
)
def test_it_compares_the_policys_signal(
    make_policy: Callable[..., Policy], signal: str, value: float
) -> None:
    def policy(below: float | None) -> Policy:
        return make_policy(signal=signal, abstain_below=below)

    assert not abstains(policy(None), SURE)
    assert not abstains(policy(0.0), SURE)
    assert not abstains(policy(value - 1e-3), SURE)
    assert abstains(policy(value + 1e-3), SURE)


def test_a_signal_that_is_just_enough_answers(make_policy: Callable[..., Policy]) -> None:
    assert not abstains(make_policy(abstain_below=0.8), SURE)
