"""The quick way to the answer is the slow one's, for few classes and for many."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from offramp.policy import top_class

_LOGITS = st.integers(2, 80).flatmap(
    lambda classes: arrays(
        np.float32, classes, elements=st.floats(-80.0, 80.0, width=32, allow_nan=False)
    )
)


@given(logits=_LOGITS)
def test_it_is_the_first_of_the_largest(
    logits: np.ndarray[tuple[int], np.dtype[np.float32]],
) -> None:
    assert top_class(logits) == top_class(logits.tolist()) == int(logits.argmax())


@pytest.mark.parametrize("classes", [3, 100])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_logits_that_are_not_finite_show(classes: int, bad: float) -> None:
    logits = np.zeros(classes, np.float32)
    logits[1] = bad
    assert top_class(logits) is None
    assert top_class(logits.tolist()) is None
