"""The outcome: a policy that keeps everything, or what could be kept instead."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from offramp.calibration._abstention import Abstention, find_abstention
from offramp.calibration._policy import make_policy
from offramp.calibration._report import Alternative, CalibrationReport
from offramp.calibration._seen import class_reports, exit_reports
from offramp.calibration._split import images_needed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from offramp.bundle import Policy
    from offramp.calibration._problem import Problem
    from offramp.calibration._quantity import Quantity

__all__ = ["find", "without_tail"]

_FEW_SIGNALS = 50
# What a promise is called in `Promises`, where that is not the certificate's word.
_PROMISED = {"mean_latency": "mean_ms", "tail_latency": "tail_ms"}


def find(problem: Problem, fit_fraction: float) -> CalibrationReport:
    """Solve a calibration and say everything about it.

    Args:
        problem: With all that is fixed beforehand.
        fit_fraction: As in ``calibrate``, to say how many images it takes.
    """
    data_sha256 = problem.given.fingerprint()
    candidate = None
    if problem.tail is None or problem.tail.last_stage >= 0:
        candidate = problem.solve(problem.quantities)
    abstention = None if candidate is None else _abstention(problem, candidate)
    feasible = candidate is not None and (abstention is None or abstention.certified)
    policy = None
    if feasible and candidate is not None:
        policy = make_policy(problem, candidate, problem.quantities, abstention, data_sha256)
    return CalibrationReport(
        program=problem.program,
        promises=problem.promises,
        feasible=feasible,
        policy=policy,
        alternatives=()
        if feasible
        else tuple(_alternatives(problem, candidate, abstention, data_sha256)),
        exits=exit_reports(problem, candidate) if feasible and candidate is not None else (),
        classes=class_reports(problem, candidate) if feasible and candidate is not None else (),
        minimum_samples=images_needed(
            problem.promises,
            classes=problem.given.logits.shape[2],
            measured=problem.latency is not None and problem.latency.measured,
            fit_fraction=fit_fraction,
        ),
        warnings=tuple(_warnings(problem, candidate)),
    )


def _abstention(problem: Problem, candidate: int) -> Abstention | None:
    limit = problem.promises.selective_error
    if limit is None:
        return None
    right = problem.answers.right
    assert right is not None

    def of(images: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        exits = problem.exits(candidate, images)
        return problem.signals[exits, images], right[exits, images]

    parts = problem.parts
    return find_abstention(of(parts.fit), of(parts.abstention), limit, problem.levels.abstention)


def _alternatives(
    problem: Problem, candidate: int | None, abstention: Abstention | None, data_sha256: str
) -> list[Alternative]:
    """The best policy for each side of promises that pull in opposite directions."""
    tail = problem.tail
    if tail is not None and tail.last_stage < 0:
        return [Alternative((), None, {"tail_ms": float(tail.exit_ms[0])})]
    if candidate is not None and abstention is not None:
        policy = make_policy(problem, candidate, problem.quantities, None, data_sha256)
        kept = _names(policy)
        return [Alternative(kept, policy, {"selective_error": abstention.smallest})]
    slower = [quantity for quantity in problem.quantities if not quantity.faster_is_safer]
    faster = [quantity for quantity in problem.quantities if quantity.faster_is_safer]
    found = []
    for side, other in ((slower, faster), (faster, slower)):
        chosen = problem.solve(side) if side else None
        if chosen is not None:
            policy = make_policy(problem, chosen, side, None, data_sha256)
            found.append(Alternative(_names(policy), policy, _nearest(problem, chosen, other)))
        elif side:
            found.append(_not_even_alone(problem, side, data_sha256))
    return found


def _not_even_alone(problem: Problem, side: Sequence[Quantity], data_sha256: str) -> Alternative:
    """What the candidate that is safest for promises nobody can keep would have certified."""
    safest = len(problem.path) - 1 if side[0].faster_is_safer else 0
    policy = None
    if problem.tail is not None and problem.tail.leaving_later == 0.0:
        policy = make_policy(problem, safest, (), None, data_sha256)
    kept = () if policy is None else _names(policy)
    return Alternative(kept, policy, _nearest(problem, safest, side))


def without_tail(problem: Problem, exit_ms: NDArray[np.float64]) -> list[Alternative]:
    """The best policy for all promises but that of the tail, which a hard cap could not join.

    Args:
        problem: The same calibration with all stages allowed.
        exit_ms: Upper confidence limits of the quantile of the time until each exit answers.
    """
    candidate = problem.solve(problem.quantities) if problem.quantities else None
    if candidate is None:
        return []
    policy = make_policy(problem, candidate, problem.quantities, None, problem.given.fingerprint())
    return [Alternative(_names(policy), policy, {"tail_ms": float(exit_ms[-1])})]


def _nearest(problem: Problem, candidate: int, wanted: Sequence[Quantity]) -> dict[str, float]:
    result = {}
    for quantity in wanted:
        if quantity.kind == "tail_latency":
            # The limit is a time; what the images say is a share, of which no time is nearest.
            assert problem.tail is not None
            result["tail_ms"] = float(problem.tail.exit_ms[-1])
        else:
            result[_PROMISED.get(quantity.kind, quantity.kind)] = problem.smallest(
                candidate, quantity
            )
    return result


def _names(policy: Policy) -> tuple[str, ...]:
    kinds = [certificate.kind for certificate in policy.certificates]
    return tuple(_PROMISED.get(kind, kind) for kind in kinds)


def _warnings(problem: Problem, candidate: int | None) -> list[str]:
    warnings = []
    for exit, signals in enumerate(problem.signals[:-1]):
        distinct = int(np.unique(signals).size)
        if distinct < _FEW_SIGNALS:
            warnings.append(
                f"exit {exit} of {problem.program} has only {distinct} different signals on these "
                f"images (fewer than {_FEW_SIGNALS}), so its threshold can only be set coarsely"
            )
    if candidate is None:
        return warnings
    stages = len(problem.signals)
    if stages > 1 and problem.last_stage == stages - 1:
        if not problem.path.enabled[candidate].any():
            images = problem.parts.certify.size
            warnings.append(
                f"no early exit of {problem.program} could be certified with {images} images, so "
                "all are disabled: give more images, or raise the limit"
            )
    elif stages > 1:
        warnings.append(
            f"stages behind stage {problem.last_stage} of {problem.program} are too slow for the "
            "tail and never run"
        )
    return warnings
