"""Logits of all exits, latencies with their samples, and the device they were taken on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from offramp.bundle import InputSpec
from offramp.classifier import DynamicClassifier
from offramp.errors import ProgramError, ShapeError
from offramp.profiling import (
    collect_logits,
    device_record,
    measure_predictions,
    measure_signatures,
    measure_stages,
    measure_throughput,
)
from offramp.runtimes import LiteRTRuntime
from offramp.testing import FakeRuntime

if TYPE_CHECKING:
    from collections.abc import Callable

    from offramp import Policy

LOGITS = np.random.default_rng(3).standard_normal((3, 4, 5)).astype(np.float32)


def test_collect_logits_of_a_real_program(programs: Any) -> None:
    steps: list[tuple[int, int]] = []
    with LiteRTRuntime(programs.data["float32"], programs.stages["float32"]) as runtime:
        logits = collect_logits(runtime, programs.images, lambda *step: steps.append(step))
    np.testing.assert_allclose(logits, programs.logits["float32"], atol=1e-5)
    assert logits.dtype == np.float32
    assert steps == [(number + 1, 8) for number in range(8)]


def test_collect_logits_wants_images() -> None:
    fake = FakeRuntime(LOGITS)
    with pytest.raises(ShapeError, match="no image"):
        collect_logits(fake, np.empty((0, 8, 8, 3), np.uint8))
    with pytest.raises(ShapeError, match="expected uint8"):
        collect_logits(fake, np.zeros((2, 8, 8, 3), np.int16))


def test_measure_stages() -> None:
    fake = FakeRuntime(LOGITS, stage_ms=(1, 4, 9))
    latencies = measure_stages(fake, fake.image(0), runs=3, warmup_runs=2)
    assert fake.stages_run == [0, 1, 2] * 5
    assert [len(latency.samples_ms) for latency in latencies] == [3, 3, 3]
    assert [latency.warmup_runs for latency in latencies] == [2, 2, 2]
    for latency, slept_ms in zip(latencies, (1, 4, 9), strict=True):
        assert slept_ms <= min(latency.samples_ms)
    with pytest.raises(ValueError, match="0 runs after 2 warm-up runs"):
        measure_stages(fake, fake.image(0), runs=0, warmup_runs=2)
    with pytest.raises(ValueError, match="-1 warm-up runs"):
        measure_stages(fake, fake.image(0), runs=1, warmup_runs=-1)


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_measure_signatures(programs: Any, precision: str) -> None:
    steps: list[tuple[int, int]] = []
    latencies = measure_signatures(
        programs.data[precision], runs=23, warmup_runs=2, progress=lambda *step: steps.append(step)
    )
    assert list(latencies) == ["stage_0", "stage_1", "stage_2"]
    for latency in latencies.values():
        assert len(latency.samples_ms) == 23
        assert min(latency.samples_ms) > 0
    assert steps == [(1, 3), (2, 3), (3, 3)]
    with pytest.raises(ProgramError, match="could not load"):
        measure_signatures(b"nothing")


def test_measure_predictions(make_policy: Callable[..., Policy]) -> None:
    fake = FakeRuntime(LOGITS, stage_ms=(1, 1, 20))
    classifier = DynamicClassifier(
        fake,
        labels=list("abcde"),
        input_spec=InputSpec(height=8, width=8),
        policy=make_policy(thresholds=(1.0, 0.0, 0.0)),
    )
    images = np.stack([fake.image(row) for row in range(4)])
    steps: list[tuple[int, int]] = []
    fake.stages_run.clear()
    measured = measure_predictions(
        classifier, images, rounds=2, warmup_runs=3, progress=lambda *step: steps.append(step)
    )
    assert fake.stages_run == [0, 1] * 11, "the last stage was never run, not just never counted"
    assert measured.exits.tolist() == [1] * 8
    assert measured.indices.tolist() == LOGITS[1].argmax(axis=-1).tolist() * 2
    assert len(measured.latency.samples_ms) == 8
    assert measured.latency.warmup_runs == 3
    assert steps[-1] == (8, 8)
    late = measure_predictions(classifier, images, warmup_runs=0, deadline_ms=0.01)
    assert late.exits.tolist() == [0] * 4
    assert not measured.hurried.any()
    assert late.hurried.all()
    with pytest.raises(ValueError, match="no image"):
        measure_predictions(classifier, [])


def test_measure_throughput() -> None:
    fakes = [FakeRuntime(LOGITS, stage_ms=(5, 5, 0)) for _ in range(2)]
    classifier = DynamicClassifier(
        fakes, labels=list("abcde"), input_spec=InputSpec(height=8, width=8), policy=None
    )
    rates = measure_throughput(classifier, [fakes[0].image(0)] * 10, rounds=2)
    assert list(rates) == [1, 2]
    # Ten milliseconds an image, and sleeping takes no processor.
    assert 50 < rates[1] < 100
    assert rates[2] > 1.5 * rates[1]
    with pytest.raises(ValueError, match="no image"):
        measure_throughput(classifier, [])


def test_device_record_is_stable_and_complete() -> None:
    record = device_record()
    assert record == device_record()
    assert set(record) == {"processor", "machine", "cores", "system", "runtime"}
    assert all(record.values())
    assert record["runtime"].startswith("ai-edge-litert ")


def test_device_record_names_what_ran(programs: Any) -> None:
    with LiteRTRuntime(programs.data["int8"], programs.stages["int8"]) as runtime:
        assert device_record(runtime.engine) == device_record()
    expected = {**device_record(), "runtime": "FakeRuntime"}
    assert device_record(FakeRuntime(LOGITS).engine) == expected
