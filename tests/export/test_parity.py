"""Parity says what differs, and refuses what differs too much."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from offramp.errors import ExportMismatchError
from offramp_export.parity import compare, require_agreement


def _logits(rng: np.random.Generator) -> np.ndarray[tuple[int, int, int], np.dtype[np.float32]]:
    return rng.normal(0, 3, (2, 200, 4)).astype(np.float32)


def test_equal_logits_agree_entirely(rng: np.random.Generator) -> None:
    logits = _logits(rng)
    parity = compare("litert/float32", logits, logits, tolerance=1e-4)
    require_agreement(parity)
    assert parity.images == 200
    assert parity.exit_agreement == 1.0
    assert [(exit.difference, exit.label_agreement) for exit in parity.exits] == [(0.0, 1.0)] * 2


@given(share=st.floats(1e-5, 0.5), exit=st.integers(0, 1))
def test_the_difference_is_relative_to_the_largest_logit(share: float, exit: int) -> None:
    reference = _logits(np.random.default_rng(0))
    logits = reference.copy()
    largest = float(np.abs(reference[exit]).max())
    logits[exit, 3, 1] += share * largest
    found = compare("litert/float32", logits, reference, tolerance=1e-4).exits
    assert found[exit].difference == pytest.approx(share, rel=0.05)
    assert found[1 - exit].difference == 0.0


def test_a_difference_beyond_the_tolerance_names_the_exit(rng: np.random.Generator) -> None:
    reference = _logits(rng)
    logits = reference.copy()
    logits[1, 0, 0] += 0.1
    parity = compare("litert/float32", logits, reference, tolerance=1e-4)
    with pytest.raises(
        ExportMismatchError, match=r"litert/float32: the logits of exit 1"
    ) as caught:
        require_agreement(parity)
    assert caught.value.program == "litert/float32"
    assert caught.value.exit == 1
    assert caught.value.tolerance == 1e-4
    assert caught.value.difference == parity.exits[1].difference
    require_agreement(dataclasses.replace(parity, tolerance=0.1))


@pytest.mark.parametrize("tolerance", [1e-4, math.inf])
def test_what_is_not_a_number_never_agrees(rng: np.random.Generator, tolerance: float) -> None:
    reference = _logits(rng)
    logits = reference.copy()
    logits[0, 0, 0] = np.nan
    with pytest.raises(ExportMismatchError):
        require_agreement(compare("p", logits, reference, tolerance=tolerance))


def test_without_a_tolerance_labels_decide(rng: np.random.Generator) -> None:
    reference = _logits(rng)
    bent = (np.sign(reference) * np.abs(reference) ** 1.2).astype(np.float32)
    require_agreement(compare("litert/int8", bent, reference, tolerance=math.inf))
    shuffled = rng.permuted(reference, axis=2)
    with pytest.raises(ExportMismatchError, match=r"gives torch's label to \d+% of 200 images"):
        require_agreement(compare("litert/int8", shuffled, reference, tolerance=math.inf))


def test_exits_are_compared_at_fixed_thresholds(rng: np.random.Generator) -> None:
    reference = _logits(rng)
    flat = reference.copy()
    flat[0] *= 0.01
    parity = compare("litert/int8", flat, reference, tolerance=math.inf)
    assert parity.exits[0].label_agreement == 1.0
    assert parity.exit_agreement < 0.5
