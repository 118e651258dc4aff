"""From a candidate that was certified to the policy that ships."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from offramp.bundle import Certificate, Policy
from offramp.calibration._claims import METHODS, claim

if TYPE_CHECKING:
    from collections.abc import Collection

    from offramp.bundle import CertificateKind
    from offramp.calibration._abstention import Abstention
    from offramp.calibration._problem import Problem
    from offramp.calibration._quantity import Quantity

__all__ = ["make_policy"]


def make_policy(
    problem: Problem,
    candidate: int,
    quantities: Collection[Quantity],
    abstention: Abstention | None,
    data_sha256: str,
) -> Policy:
    """Write down a candidate with a certificate for everything it keeps.

    Args:
        problem: The calibration.
        candidate: Its place on the path.
        quantities: Those that it is certified to keep.
        abstention: The signal to abstain below; ``None`` withholds nothing.
        data_sha256: Fingerprint of the calibration data.
    """
    certify = problem.parts.certify
    exits = problem.exits(candidate, certify)
    last = problem.last_stage
    stages = len(problem.signals)
    early = tuple(bool(value) for value in problem.path.enabled[candidate])
    enabled = early + (True,) * (last < stages - 1) + (False,) * (stages - 2 - last)
    levels = problem.path.thresholds[candidate].tolist() + [0.0] * (last < stages - 1)
    thresholds = (*levels, *(1.0 for _ in range(stages - 1 - len(levels))), 0.0)
    counts = np.bincount(exits, minlength=stages)
    right = problem.answers.right
    writer = _Writer(problem, data_sha256, any_early=any(enabled))
    kept = {quantity.kind: quantity for quantity in quantities}
    tail = problem.tail
    if tail is not None and (tail.leaving_later == 0.0 or "tail_latency" in kept):
        certificates = [_of_tail(writer)]
    else:
        certificates = []
    kept.pop("tail_latency", None)
    certificates += [_of_quantity(writer, candidate, quantity) for quantity in kept.values()]
    if abstention is not None:
        certificates.append(_of_abstention(writer, abstention))
    return Policy(
        name=problem.name,
        program=problem.program,
        signal=problem.signal,
        temperatures=problem.temperatures,
        thresholds=tuple(
            level if on else 1.0 for level, on in zip(thresholds, (*enabled, True), strict=True)
        ),
        enabled=(*enabled, True),
        abstain_below=None if abstention is None else abstention.below,
        exit_shares=tuple(float(count) / certify.size for count in counts),
        exit_counts=tuple(int(count) for count in counts),
        accuracy=None if right is None else float(right[exits, certify].mean()),
        certificates=tuple(sorted(certificates, key=lambda certificate: certificate.kind)),
    )


class _Writer:
    """Fills in what all certificates of one policy share."""

    def __init__(self, problem: Problem, data_sha256: str, *, any_early: bool) -> None:
        self.problem = problem
        self._data_sha256 = data_sha256
        self._any_early = any_early

    def write(
        self,
        kind: CertificateKind,
        limit: float,
        observed: float,
        upper_bound: float,
        *,
        images: int | None = None,
        compares: bool = False,
        exit_ms: tuple[float, ...] = (),
    ) -> Certificate:
        problem = self.problem
        promises = problem.promises
        return Certificate(
            kind=kind,
            claim=claim(kind, problem.program, promises, any_early=self._any_early),
            reference=promises.reference if compares else None,
            limit=limit,
            confidence=promises.confidence,
            images_fit=problem.parts.fit.size,
            images_certified=problem.parts.certify.size if images is None else images,
            observed=min(observed, limit),
            upper_bound=min(upper_bound, limit),
            method=METHODS[kind],
            seed=problem.seed,
            data_sha256=self._data_sha256,
            quantile=promises.quantile if kind == "tail_latency" else None,
            exit_ms=exit_ms,
            device=dict(problem.latency.device) if exit_ms and problem.latency else {},
        )


def _of_quantity(writer: _Writer, candidate: int, quantity: Quantity) -> Certificate:
    problem = writer.problem
    certify = problem.parts.certify
    exits = problem.exits(candidate, certify)
    smallest = problem.smallest(candidate, quantity)
    if quantity.kind == "mean_latency":
        assert problem.latency is not None
        assert problem.promises.mean_ms is not None
        return writer.write(
            quantity.kind,
            problem.promises.mean_ms,
            float(problem.latency.mean_ms()[exits].mean()),
            smallest,
            exit_ms=tuple(problem.latency.mean_limits_ms(problem.levels.latency).tolist()),
        )
    observed = quantity.take(certify).observed(exits)
    return writer.write(quantity.kind, quantity.limit, observed, smallest, compares=True)


def _of_tail(writer: _Writer) -> Certificate:
    tail, promises = writer.problem.tail, writer.problem.promises
    assert tail is not None
    assert promises.tail_ms is not None
    return writer.write(
        "tail_latency",
        promises.tail_ms,
        float(tail.observed_ms[tail.quick_stage]),
        float(tail.exit_ms[tail.quick_stage]),
        exit_ms=tuple(tail.exit_ms.tolist()),
    )


def _of_abstention(writer: _Writer, abstention: Abstention) -> Certificate:
    limit = writer.problem.promises.selective_error
    assert limit is not None
    return writer.write(
        "selective_error",
        limit,
        abstention.wrong / max(1, abstention.answered),
        abstention.smallest,
        images=abstention.answered,
    )
