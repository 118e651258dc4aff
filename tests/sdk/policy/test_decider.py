"""The quick way to decide is the slow one's, whatever the threshold and the temperature."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from offramp.policy import Decider, Policy, answers, make_decider, probabilities

_LOGITS = st.integers(2, 70).flatmap(
    lambda classes: arrays(np.float32, classes, elements=st.floats(-40.0, 40.0, width=32))
)


def _policy(threshold: float, temperature: float) -> Policy:
    return Policy(
        name="default",
        program="litert/float32",
        signal="max_probability",
        temperatures=(temperature, 1.0),
        thresholds=(threshold, 0.0),
        enabled=(True, True),
    )


def _check(
    decider: Decider | None, logits: np.ndarray[tuple[int], np.dtype[np.float32]], expected: bool
) -> None:
    assert decider is not None
    assert decider.decide(logits) == decider.decide(logits.tolist()) == expected
    *_, second, largest = sorted(logits.tolist())
    lead = largest - second
    assert not (expected and lead < decider.never_below)
    assert expected or lead <= decider.always_above


@given(
    logits=_LOGITS,
    threshold=st.floats(0.0, 1.0) | st.sampled_from([0.0, 0.5, 0.9, 0.999999, 1.0]),
    temperature=st.floats(0.05, 20.0),
)
def test_any_threshold(
    logits: np.ndarray[tuple[int], np.dtype[np.float32]], threshold: float, temperature: float
) -> None:
    policy = _policy(threshold, temperature)
    expected = answers(policy, 0, probabilities(logits, temperature))
    decider = make_decider(policy, 0, len(logits))
    _check(decider, logits, expected)


@given(logits=_LOGITS, temperature=st.floats(0.05, 20.0), nudge=st.sampled_from([-1e-12, 0, 1e-12]))
def test_a_threshold_met_to_the_last_bits(
    logits: np.ndarray[tuple[int], np.dtype[np.float32]], temperature: float, nudge: float
) -> None:
    probability = probabilities(logits, temperature)
    threshold = min(1.0, max(0.0, float(probability.max()) + nudge))
    policy = _policy(threshold, temperature)
    decider = make_decider(policy, 0, len(logits))
    _check(decider, logits, answers(policy, 0, probability))
