"""Classifiers on scripted logits, and a real bundle with certified policies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from offramp import DynamicClassifier, Policy
from offramp.bundle import Certificate, InputSpec
from offramp.policy import probabilities, signal_values

if TYPE_CHECKING:
    from collections.abc import Callable

    from offramp import Bundle
    from offramp.testing import FakeRuntime

LABELS = ("ant", "bee", "cat")


@pytest.fixture
def make_classifier() -> Callable[..., DynamicClassifier]:
    """``make_classifier(*fakes, policy=..., ...)``."""

    def make(*fakes: FakeRuntime, **changes: Any) -> DynamicClassifier:
        values: dict[str, Any] = {
            "labels": LABELS,
            "input_spec": InputSpec(height=8, width=8),
            "policy": None,
        }
        return DynamicClassifier(fakes, **{**values, **changes})

    return make


@pytest.fixture
def certificate() -> Certificate:
    return Certificate(
        kind="accuracy_drop",
        claim="a promise",
        reference="self",
        limit=0.01,
        confidence=0.95,
        images_fit=10,
        images_certified=10,
        observed=0.0,
        upper_bound=0.01,
        method="betting",
        seed=0,
        data_sha256="0" * 64,
    )


@pytest.fixture
def calibrated(
    bundle: Bundle, make_policy: Callable[..., Policy], certificate: Certificate
) -> Bundle:
    """A real bundle: ``default`` stops half of the images early, ``saver`` all at exit 0."""
    for program in ("litert/float32", "litert/int8"):
        sure = signal_values(probabilities(bundle.vectors().logits[program]), "max_probability")
        # Between two images' values, so that an engine's last bit decides nothing.
        thresholds = (*np.median(sure, axis=1)[:2].tolist(), 0.0)
        for name, changes in {
            "default": {"thresholds": thresholds, "exit_shares": (0.5, 0.25, 0.25)},
            "saver": {"thresholds": (0.0, 0.0, 0.0), "exit_shares": (1.0, 0.0, 0.0)},
        }.items():
            bundle = bundle.add_policy(
                make_policy(name=name, program=program, certificates=(certificate,), **changes)
            )
    return bundle
