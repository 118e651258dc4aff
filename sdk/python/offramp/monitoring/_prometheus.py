"""A state in the text format of Prometheus, version 0.0.4."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING

from offramp.monitoring._confidence import CONFIDENCE_EDGES
from offramp.monitoring._summary import summarize

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from offramp.monitoring._state import MonitorState
    from offramp.monitoring._summary import LatencySummary

__all__ = ["prometheus_text"]

_Sample = tuple[str, dict[str, str], float]


def prometheus_text(state: MonitorState) -> str:
    """The state for a scraper, to be served as ``text/plain; version=0.0.4``.

    Counters only ever grow, as long as the state is restored after a restart. Times are seconds, as
    Prometheus wants them.
    """
    return "".join(_families(state))


def _families(state: MonitorState) -> Iterator[str]:
    figures = summarize(state)
    yield _family(
        "offramp_predictions_total",
        "counter",
        "Predictions by policy, the exit that answered, and why it did.",
        (
            ("", {"policy": part.policy, "exit": str(part.exit), "reason": part.reason}, part.count)
            for part in state.predictions
        ),
    )
    yield _family(
        "offramp_confidence",
        "histogram",
        "Probability of the answer, by the exit that answered.",
        _confidence(state),
    )
    yield _family(
        "offramp_confidence_psi",
        "gauge",
        "Population stability index of the confidences, last full window against the reference.",
        (
            ("", {"exit": str(exit)}, value)
            for exit, value in enumerate(figures.confidence_psi)
            if value is not None
        ),
    )
    yield _family(
        "offramp_stage_latency_seconds",
        "summary",
        "Time of one run of a stage; quantiles within 1 % since the start.",
        (
            sample
            for stage, latency in enumerate(figures.stage_latency)
            for sample in _latency(latency, {"stage": str(stage)})
        ),
    )
    yield _family(
        "offramp_prediction_latency_seconds",
        "summary",
        "Time of one prediction, decoding included; quantiles within 1 % since the start.",
        _latency(figures.total_latency, {}),
    )
    yield _family(
        "offramp_drift_alarms_total",
        "counter",
        "Drift alarms: the exits no longer look like those of the calibration.",
        (("", {"policy": part.policy}, part.alarms) for part in figures.drift),
    )
    yield _family(
        "offramp_drift_evidence_nats",
        "gauge",
        "How near a drift alarm is, by the window that says most; 0 raises it.",
        (("", {"policy": part.policy}, part.evidence) for part in figures.drift),
    )
    yield _family(
        "offramp_shadow_runs_total",
        "counter",
        "Images that ran through all stages to compare.",
        [("", {}, figures.shadow_runs)],
    )
    yield _family(
        "offramp_shadow_disagreements_total",
        "counter",
        "Those of them that the last exit would have answered differently.",
        [("", {}, figures.shadow_disagreements)],
    )
    yield _family(
        "offramp_shadow_disagreement_bound",
        "gauge",
        "Upper 95 % confidence limit of the share of images answered differently.",
        [("", {}, figures.shadow_disagreement_bound)],
    )


def _confidence(state: MonitorState) -> Iterator[_Sample]:
    ends = [*map(_number, CONFIDENCE_EDGES), "+Inf"]
    for exit, (histogram, total) in enumerate(
        zip(state.confidence, state.confidence_sum, strict=True)
    ):
        labels = {"exit": str(exit)}
        for end, count in zip(ends, accumulate(histogram), strict=True):
            yield "_bucket", {**labels, "le": end}, count
        yield "_sum", labels, total
        yield "_count", labels, sum(histogram)


def _latency(latency: LatencySummary | None, labels: dict[str, str]) -> Iterator[_Sample]:
    if latency is None:
        return
    for quantile, ms in (
        ("0.5", latency.median_ms),
        ("0.9", latency.p90_ms),
        ("0.99", latency.p99_ms),
    ):
        if ms is not None:
            yield "", {**labels, "quantile": quantile}, 1e-3 * ms
    yield "_sum", labels, 1e-3 * latency.mean_ms * latency.count
    yield "_count", labels, latency.count


def _family(name: str, kind: str, text: str, samples: Iterable[_Sample]) -> str:
    lines = [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
    for suffix, labels, value in samples:
        inside = ",".join(f'{key}="{_escape(given)}"' for key, given in labels.items())
        lines.append(f"{name}{suffix}{f'{{{inside}}}' if inside else ''} {_number(value)}")
    return "\n".join(lines) + "\n"


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _number(value: float) -> str:
    # repr is the shortest text that reads back as the same number.
    return repr(value)
