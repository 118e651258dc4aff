"""The exit rule: pure functions of logits and a policy.

All bindings implement exactly this; ``sdk/conformance`` decides when they differ.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    from offramp.bundle import Policy

__all__ = [
    "FEW_CLASSES",
    "Logits",
    "abstains",
    "answers",
    "choose_exits",
    "probabilities",
    "signal_values",
    "top_class",
    "top_probabilities",
]

FEW_CLASSES = 64
"""Up to so many plain floats are quicker than arrays, whose code the kernels have just pushed out
of the processor's cache."""

_LOWEST = -math.inf

Logits: TypeAlias = "NDArray[np.float32] | list[float]"
"""``(classes,)`` logits of one image, as an array or, of few classes, as a list."""


def probabilities(logits: ArrayLike, temperature: float = 1.0) -> NDArray[np.float64]:
    """Softmax of ``logits / temperature`` in float64, over the last axis.

    Args:
        logits: ``(..., classes)``, any float dtype.
        temperature: Positive.

    Returns:
        ``(..., classes)`` float64, each row summing to one.
    """
    # In place and by bare ufuncs: this runs between two stages, where microseconds count.
    values: NDArray[np.float64] = np.array(logits, dtype=np.float64)
    if temperature != 1.0:
        values /= temperature
    values -= np.maximum.reduce(values, axis=-1, keepdims=True)
    np.exp(values, out=values)
    values /= np.add.reduce(values, axis=-1, keepdims=True)
    return values


def signal_values(probability: NDArray[np.float64], signal: str) -> NDArray[np.float64]:
    """How sure an exit is, between 0 and 1.

    Args:
        probability: ``(..., classes)`` float64, from ``probabilities``.
        signal: ``max_probability``; ``margin``, the largest minus the second largest; or
            ``entropy``, one minus the entropy over the logarithm of the number of classes.

    Returns:
        ``(...)`` float64.
    """
    result: NDArray[np.float64]
    if signal == "max_probability":
        result = np.maximum.reduce(probability, axis=-1)
    elif signal == "margin":
        two = np.partition(probability, -2, axis=-1)[..., -2:]
        result = two[..., 1] - two[..., 0]
    elif signal == "entropy":
        logarithm = np.log(np.where(probability > 0, probability, 1.0))
        entropy = -(probability * logarithm).sum(axis=-1)
        result = np.clip(1.0 - entropy / np.log(probability.shape[-1]), 0.0, 1.0)
    else:
        raise ValueError(
            f"unknown signal {signal!r}; expected 'max_probability', 'margin' or 'entropy'"
        )
    return result


def answers(policy: Policy, exit: int, probability: NDArray[np.float64]) -> bool:
    """Whether an exit answers, given its class probabilities at the policy's temperature.

    Args:
        policy: The policy.
        exit: The exit, counted from 0.
        probability: ``(classes,)`` float64.
    """
    if exit == len(policy.enabled) - 1:
        return True
    if not policy.enabled[exit]:
        return False
    return bool(signal_values(probability, policy.signal) >= policy.thresholds[exit])


def abstains(policy: Policy, probability: NDArray[np.float64]) -> bool:
    """Whether the answer of the exit that answers is withheld.

    Args:
        policy: The policy.
        probability: ``(classes,)`` float64, of that exit at its temperature.
    """
    if policy.abstain_below is None:
        return False
    return bool(signal_values(probability, policy.signal) < policy.abstain_below)


def top_class(logits: Logits) -> int | None:
    """The most probable class, the first of equal ones; ``None`` if a logit is not finite."""
    if type(logits) is list:
        # One loop touches less of the interpreter than ``max``, ``index`` and ``sum``.
        top, largest, total = 0, _LOWEST, 0.0
        for index, value in enumerate(logits):
            total += value
            if value > largest:
                top, largest = index, value
        return top if total - total == 0.0 else None  # neither inf nor nan is
    assert isinstance(logits, np.ndarray)
    return int(logits.argmax()) if np.isfinite(logits).all() else None


def top_probabilities(evidence: Sequence[tuple[Logits, float]]) -> list[float]:
    """The largest of ``probabilities`` of each image, but for its last digits, all at once.

    Args:
        evidence: Finite logits, and the temperature for them.
    """
    if not evidence:
        return []
    logits, temperatures = zip(*evidence, strict=True)
    if len(set(map(len, logits))) > 1:
        return [float(probabilities(*each).max()) for each in evidence]
    values = np.array(logits, np.float64)
    values -= np.maximum.reduce(values, axis=1, keepdims=True)
    values /= np.array(temperatures)[:, None]
    np.exp(values, out=values)
    quotients: list[float] = (1.0 / np.add.reduce(values, axis=1)).tolist()
    return quotients


def choose_exits(policy: Policy, logits: ArrayLike) -> NDArray[np.int64]:
    """The exit each image leaves at, from the logits of all exits.

    Args:
        policy: The policy.
        logits: ``(exits, images, classes)``.

    Returns:
        ``(images,)`` int64.
    """
    array = np.asarray(logits)
    last = array.shape[0] - 1
    chosen = np.full(array.shape[1], last, dtype=np.int64)
    for exit in reversed(range(last)):
        if policy.enabled[exit]:
            sure = signal_values(
                probabilities(array[exit], policy.temperatures[exit]), policy.signal
            )
            chosen[sure >= policy.thresholds[exit]] = exit
    return chosen
