"""From logits and labels to a policy with its certificates."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from offramp.calibration._cost_aware import cost_aware_path
from offramp.calibration._find import find, without_tail
from offramp.calibration._inputs import Inputs, Signal, check_inputs
from offramp.calibration._latency import ExitLatency, read_latency
from offramp.calibration._path import CandidatePath, candidate_path
from offramp.calibration._problem import Problem
from offramp.calibration._promised import Answers, plan_tail, quantities
from offramp.calibration._promises import Promises
from offramp.calibration._split import FIT_FRACTION, split_images
from offramp.calibration._temperature import fit_temperature
from offramp.errors import CalibrationError, TooFewImagesError
from offramp.policy import probabilities, signal_values

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from offramp.calibration._latency import LatencyLike
    from offramp.calibration._promised import TailPlan
    from offramp.calibration._promises import Levels
    from offramp.calibration._report import CalibrationReport
    from offramp.calibration._split import Parts

__all__ = ["calibrate"]


def calibrate(
    logits: ArrayLike,
    labels: ArrayLike | None = None,
    *,
    program: str,
    promises: Promises | None = None,
    latency: LatencyLike | None = None,
    signal: Signal = "max_probability",
    path: Literal["shared", "cost_aware"] = "shared",
    reference_logits: ArrayLike | None = None,
    fit_fraction: float = FIT_FRACTION,
    seed: int = 0,
    name: str = "default",
) -> CalibrationReport:
    """Choose when to stop, such that all promises are kept with proof.

    The images are shuffled by ``seed`` and parted. On the first part a temperature is fitted to
    each exit and a path of candidate policies is built. On the second part candidates are tested
    in an order fixed beforehand until one cannot be shown to keep every promise; the answer is the
    best one that could. Where answers may be withheld, a third part says below which signal. The
    probability that the answer breaks any promise is at most ``1 - confidence``, whatever the
    network and the images. What it takes is that future images come from where these came from,
    and that these are independent: frames of one clip, or copies, are not.

    Drops are signed: an image that early exit gets right and the reference wrong counts back.

    Args:
        logits: ``(exits, images, classes)``, from the exported program itself.
        labels: ``(images,)`` integers; not needed to promise disagreement or latencies.
        program: ``runtime/precision`` of that program.
        promises: What the policy is to keep; by default a drop of accuracy of at most one point at
            95 % confidence.
        latency: The time of the stages, for promises about it and for ``path="cost_aware"``: a
            measurement of the bundle; or one entry per stage, measured or, as a number of
            milliseconds, exact; or ``(stages, runs)`` samples in milliseconds.
        signal: What the threshold is compared with.
        path: ``shared``: one threshold for all exits. ``cost_aware``: one price per millisecond
            saved for all exits.
        reference_logits: ``(images, classes)``, the float network's last exit on the same images;
            for promises with ``reference="float"`` only.
        fit_fraction: Share of the images for temperatures and the path.
        seed: Seed of the split and of the order of the test.
        name: The policy's name.

    Returns:
        The policy, if there is one, with one certificate per promise; ``certified()`` gives it or
        raises. If no early exit can be certified against the program's own last exit, all are
        disabled and the certificate states a drop of 0, which is exact.

    Raises:
        ShapeError: An array has the wrong shape or dtype.
        DataError: Logits are not finite, or a label names no class.
        CalibrationError: An argument is out of range, or something a promise needs is not given.
        TooFewImagesError: So few images cannot certify the limits, whatever the network does.
    """
    wanted = Promises(accuracy_drop=0.01) if promises is None else promises
    given = check_inputs(
        logits,
        labels,
        signal=signal,
        reference=wanted.reference,
        reference_logits=reference_logits,
    )
    exits, images, classes = given.logits.shape
    known = None if latency is None else read_latency(latency, exits)
    _check_given(wanted, given, known, path)
    measured = known is not None and known.measured
    levels = wanted.levels(measured=measured)
    parts = split_images(
        images, wanted, classes=classes, measured=measured, fit_fraction=fit_fraction, seed=seed
    )
    _check_classes(wanted, given, parts, levels)
    answers = Answers.of(given)
    temperatures = _temperatures(given, answers, parts.fit)
    signals = np.stack(
        [
            signal_values(probabilities(given.logits[exit], temperatures[exit]), signal)
            for exit in range(exits)
        ]
    )
    tail = None
    if wanted.tail_ms is not None:
        assert known is not None
        tail = plan_tail(wanted, known, levels.latency)
    problem = Problem(
        program=program,
        name=name,
        signal=signal,
        seed=seed,
        promises=wanted,
        levels=levels,
        given=given,
        answers=answers,
        parts=parts,
        temperatures=temperatures,
        signals=signals,
        latency=known,
        tail=tail,
        path=_path(path, signals[:, parts.fit], answers, parts, known, tail),
        quantities=quantities(wanted, answers, known, tail, levels),
    )
    report = find(problem, fit_fraction)
    if report.feasible or tail is None or tail.leaving_later > 0.0:
        return report
    # The other side of a hard cap is a calibration in which all stages may run.
    uncapped = replace(
        problem,
        tail=None,
        path=_path(path, signals[:, parts.fit], answers, parts, known, None),
        quantities=quantities(wanted, answers, known, None, levels),
    )
    return replace(
        report, alternatives=(*report.alternatives, *without_tail(uncapped, tail.exit_ms))
    )


def _check_given(promises: Promises, given: Inputs, latency: ExitLatency | None, path: str) -> None:
    if path not in ("shared", "cost_aware"):
        raise CalibrationError(f"unknown path {path!r}; expected 'shared' or 'cost_aware'")
    if given.labels is None and promises.needing_labels:
        raise CalibrationError(
            f"{' and '.join(promises.needing_labels)} cannot be promised without labels; give "
            "labels, or promise disagreement, which is never below the drop of accuracy"
        )
    if latency is None and (promises.needing_latency or path == "cost_aware"):
        needing = " and ".join(promises.needing_latency) or "the cost-aware path"
        raise CalibrationError(
            f"{needing} needs the latency of each stage; measure it (offramp profile) and give it"
        )


def _check_classes(promises: Promises, given: Inputs, parts: Parts, levels: Levels) -> None:
    """A class without enough images of its own cannot be promised anything."""
    from offramp.calibration._betting import minimum_samples

    if promises.class_drop is None or given.labels is None:
        return
    needed = minimum_samples(promises.class_drop, levels.walk)
    counts = np.bincount(given.labels[parts.certify], minlength=given.logits.shape[2])
    if counts.min() < needed:
        raise TooFewImagesError(
            f"class {int(counts.argmin())} has {int(counts.min())} images for the certificate; a "
            f"class_drop of at most {promises.class_drop:.3%} takes at least {needed} of every "
            "class: give more images of it or raise the limit",
            got=int(counts.min()),
            needed=needed,
        )


def _temperatures(given: Inputs, answers: Answers, fit: NDArray[np.int64]) -> tuple[float, ...]:
    """One per exit; without labels the early exits learn from the reference."""
    last = given.logits.shape[0] - 1
    truth = answers.reference if given.labels is None else given.labels
    return tuple(
        # The last exit cannot learn from itself how unsure it ought to be.
        1.0
        if exit == last and given.labels is None
        else fit_temperature(given.logits[exit, fit], truth[fit])
        for exit in range(last + 1)
    )


def _path(
    kind: str,
    signals: NDArray[np.float64],
    answers: Answers,
    parts: Parts,
    latency: ExitLatency | None,
    tail: TailPlan | None,
) -> CandidatePath:
    """The candidates, over the exits before the last stage that may run."""
    last = len(signals) - 1 if tail is None else max(0, tail.last_stage)
    if kind == "shared":
        return candidate_path(signals[:last])
    assert latency is not None
    costs = answers.costs()[:last, parts.fit]
    return cost_aware_path(signals[:last], costs, latency.mean_ms()[: last + 1])
