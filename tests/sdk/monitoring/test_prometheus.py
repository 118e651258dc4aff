"""The text is what Prometheus reads, by the parser of its own client."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from offramp.monitoring import CONFIDENCE_EDGES, Monitor

if TYPE_CHECKING:
    from collections.abc import Callable

    from offramp.bundle import Policy

ODD = 'quoted "name"\\with\nall of it'


def _samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    found = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation
        assert family.type in ("counter", "gauge", "histogram", "summary")
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in found, "no series twice"
            found[key] = sample.value
    return found


@pytest.fixture
def monitor(answer: Any, counted_policy: Callable[..., Policy]) -> Monitor:
    monitor = Monitor(3, [counted_policy(), counted_policy(ODD)], window=400)
    for number in range(1200):
        monitor.record(
            answer(
                exit=number % 3,
                policy=ODD if number % 2 else "default",
                score=1 - 0.6 / (1 + number % 50),
                stage_ms=(0.5, 2.0, 8.0)[: 1 + number % 3],
                total_ms=12.0,
            ),
            1 if number % 100 == 0 else None,
        )
    return monitor


def test_values_come_through(monitor: Monitor) -> None:
    found = _samples(monitor.prometheus())
    labels = (("exit", "1"), ("policy", ODD), ("reason", "confident"))
    assert found["offramp_predictions_total", labels] == 200
    figures = monitor.summary()
    assert found["offramp_shadow_runs_total", ()] == figures.shadow_runs == 12
    assert found["offramp_shadow_disagreement_bound", ()] == figures.shadow_disagreement_bound
    count = ("offramp_stage_latency_seconds_count", (("stage", "2"),))
    assert found[count] == 400
    median = (
        "offramp_stage_latency_seconds",
        (("quantile", "0.5"), ("stage", "2")),
    )
    assert found[median] == pytest.approx(8e-3, rel=0.01)
    assert found["offramp_prediction_latency_seconds_sum", ()] == pytest.approx(1188 * 12e-3)
    assert found["offramp_drift_alarms_total", (("policy", ODD),)] == 1
    assert ("offramp_confidence_psi", (("exit", "0"),)) not in found, "too few for a figure"


def test_histograms_add_up(monitor: Monitor) -> None:
    found = _samples(monitor.prometheus())
    for exit in ("0", "1", "2"):
        buckets = [
            found["offramp_confidence_bucket", (("exit", exit), ("le", end))]
            for end in [*map(repr, CONFIDENCE_EDGES), "+Inf"]
        ]
        assert buckets == sorted(buckets)
        assert buckets[-1] == found["offramp_confidence_count", (("exit", exit),)] == 400


def test_the_lines_are_those_of_the_format(monitor: Monitor) -> None:
    text = monitor.prometheus()
    assert text.endswith("\n")
    lines = text.splitlines()
    assert lines[0].startswith("# HELP offramp_predictions_total ")
    assert lines[1] == "# TYPE offramp_predictions_total counter"
    assert r'policy="quoted \"name\"\\with\nall of it"' in text
    families = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    assert len(set(families)) == len(families)


def test_counters_only_grow(monitor: Monitor, answer: Any) -> None:
    earlier = _samples(monitor.prometheus())
    for number in range(999):
        monitor.record(answer(exit=number % 3, score=0.4), 0)
    later = _samples(monitor.prometheus())
    grew = 0
    for (name, labels), value in earlier.items():
        if name.endswith(("_total", "_bucket", "_count", "_sum")):
            assert later[name, labels] >= value, name
            grew += later[name, labels] > value
    assert grew > 10


def test_nothing_yet(answer: Any) -> None:
    found = _samples(Monitor(2).prometheus())
    assert found["offramp_shadow_disagreement_bound", ()] == 1
    assert not any(name == "offramp_prediction_latency_seconds" for name, _ in found)
    few = Monitor(2)
    few.record(answer())
    names = [key for key in _samples(few.prometheus()) if "latency" in key[0]]
    assert ("offramp_prediction_latency_seconds", (("quantile", "0.99"),)) not in names
