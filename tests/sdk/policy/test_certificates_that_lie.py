"""A policy whose certificates contradict themselves, or it, is refused when a bundle is opened."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from offramp.bundle import Bundle, Certificate, Policy
from offramp.errors import ManifestError

if TYPE_CHECKING:
    from collections.abc import Callable

    MakePolicy = Callable[..., Policy]

CERTIFICATE: dict[str, Any] = {
    "kind": "accuracy_drop",
    "claim": "It is at most so much.",
    "reference": "self",
    "limit": 0.02,
    "confidence": 0.95,
    "images_fit": 300,
    "images_certified": 700,
    "observed": 0.004,
    "upper_bound": 0.013,
    "method": "by hand",
    "seed": 0,
    "data_sha256": "0" * 64,
}
MEAN: dict[str, Any] = {
    "kind": "mean_latency",
    "reference": None,
    "limit": 5.0,
    "observed": 3.0,
    "upper_bound": 4.0,
    "exit_ms": (1.0, 2.0, 6.0),
    "device": {"processor": "a"},
}
TAIL = MEAN | {"kind": "tail_latency", "quantile": 0.99}
SELECTIVE: dict[str, Any] = {"kind": "selective_error", "reference": None}


@pytest.mark.parametrize("changes", [{}, MEAN, TAIL, SELECTIVE, {"kind": "class_drop"}])
def test_sound_ones_are_read_back(
    bundle: Bundle, make_policy: MakePolicy, changes: dict[str, Any]
) -> None:
    certificate = Certificate(**CERTIFICATE | changes)
    policy = make_policy(certificates=(certificate,), abstain_below=0.25)
    bundle.add_policy(policy)
    read = Bundle.open(bundle.path).policy("litert/int8")
    assert (read.certificates, read.abstain_below) == ((certificate,), 0.25)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "a feeling", "reference": None}, "kind' is 'a feeling'.*accuracy_drop"),
        ({"limit": 0.0}, "limit' is 0.0, expected a fraction above 0"),
        ({"limit": 1.5}, "limit' is 1.5, expected a fraction above 0 and below 1"),
        ({"observed": 0.03}, "observed' is 0.03, expected at most the limit 0.02"),
        ({"upper_bound": 0.03}, "upper_bound' is 0.03, expected at most the limit 0.02"),
        ({"reference": None}, "reference' is None, expected 'self' or 'float'"),
        ({"quantile": 0.99}, "quantile' is 0.99, expected none for accuracy_drop"),
        ({"exit_ms": (1.0, 2.0, 3.0)}, r"exit_ms' is \(1.*, expected none for accuracy_drop"),
        (MEAN | {"limit": -1.0}, "limit' is -1.0, expected a time above 0"),
        (MEAN | {"reference": "self"}, "reference' is 'self', expected none for mean_latency"),
        (MEAN | {"exit_ms": (1.0, 2.0)}, r"exit_ms' is .*, expected 3 times, one per exit"),
        (MEAN | {"exit_ms": (1.0, 3.0, 2.0)}, r"exit_ms' is .*, expected 3 times.*none falling"),
        (TAIL | {"quantile": None}, "quantile' is None, expected a quantile"),
    ],
)
def test_others_are_not(
    bundle: Bundle, make_policy: MakePolicy, changes: dict[str, Any], message: str
) -> None:
    certificate = Certificate(**CERTIFICATE | changes)
    with pytest.raises(ManifestError, match=message):
        bundle.add_policy(make_policy(certificates=(certificate,), abstain_below=0.25))


def test_a_promise_about_answers_needs_some_to_be_withheld(
    bundle: Bundle, make_policy: MakePolicy
) -> None:
    certificate = Certificate(**CERTIFICATE | SELECTIVE)
    with pytest.raises(ManifestError, match="abstain_below' is None, expected a signal"):
        bundle.add_policy(make_policy(certificates=(certificate,)))


@pytest.mark.parametrize("below", [-0.1, 1.1, float("nan")])
def test_the_signal_to_abstain_below_is_one(
    bundle: Bundle, make_policy: MakePolicy, below: float
) -> None:
    with pytest.raises(ManifestError, match="abstain_below"):
        bundle.add_policy(make_policy(abstain_below=below))


def test_each_kind_is_promised_once(bundle: Bundle, make_policy: MakePolicy) -> None:
    certificate = Certificate(**CERTIFICATE)
    with pytest.raises(ManifestError, match="each only once"):
        bundle.add_policy(make_policy(certificates=(certificate, certificate)))
