"""Parity says what differs, and refuses what differs too much."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from offramp.bundle import Policy
from offramp.errors import DataError, ExportMismatchError
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


def test_the_mean_difference_stands_beside_the_largest(rng: np.random.Generator) -> None:
    reference = _logits(rng)
    logits = reference.copy()
    logits[1, :50] += 0.1
    largest = float(np.abs(reference[1]).max())
    quiet, off = compare("litert/float32", logits, reference, tolerance=1.0).exits
    assert (quiet.difference, quiet.mean_difference) == (0.0, 0.0)
    assert off.difference == pytest.approx(0.1 / largest, rel=1e-5)
    assert off.mean_difference == pytest.approx(0.1 / largest * 50 / 200, rel=1e-5)


def test_accuracies_are_given_with_labels_only(rng: np.random.Generator) -> None:
    reference = _logits(rng)
    labels = reference[1].argmax(axis=-1)
    logits = reference.copy()
    logits[1, :20] *= -1
    compared = compare("litert/int8", logits, reference, tolerance=math.inf, labels=labels)
    assert compared.exits[1].torch_accuracy == 1.0
    assert compared.exits[1].accuracy == pytest.approx(0.9)
    assert compared.exits[0].accuracy == compared.exits[0].torch_accuracy
    (bare, _) = compare("litert/int8", logits, reference, tolerance=math.inf).exits
    assert (bare.accuracy, bare.torch_accuracy) == (None, None)
    for wrong, sentence in (
        (labels[:3], r"shape \(3,\) for 200 images"),
        (labels + 1, "from 1 to 4"),
    ):
        with pytest.raises(DataError, match=sentence):
            compare("litert/int8", logits, reference, tolerance=math.inf, labels=wrong)


def _policy(exits: int, threshold: float) -> Policy:
    return Policy(
        name="careful",
        program="litert/int8",
        signal="margin",
        temperatures=(1.0,) * exits,
        thresholds=(threshold,) * exits,
        enabled=(True,) * exits,
    )


def test_where_images_leave_is_judged_at_the_policy_that_is_given(rng: np.random.Generator) -> None:
    reference = np.zeros((2, 100, 4), np.float32)
    reference[:, :, 0] = 3.0
    logits = reference.copy()
    # Sure of its answer still, but not by the policy's own signal.
    logits[0, :30, 1] = 1.5
    parity = compare("litert/int8", logits, reference, tolerance=math.inf, policy=_policy(2, 0.75))
    assert parity.policy == "careful"
    assert parity.policy_agreement == pytest.approx(0.7)
    parity = compare("litert/int8", logits, reference, tolerance=math.inf, policy=_policy(2, 0.1))
    assert parity.policy_agreement == 1.0
    assert compare("p", logits, reference, tolerance=math.inf).policy_agreement is None
    with pytest.raises(DataError, match="policy 'careful' is for 3 exits, the network has 2"):
        compare("p", logits, reference, tolerance=math.inf, policy=_policy(3, 0.1))
