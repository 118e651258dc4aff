"""A real classifier tells its monitor all, shadow runs included, and nothing without one."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from offramp.bundle import InputSpec
from offramp.classifier import DynamicClassifier
from offramp.monitoring import Monitor
from offramp.policy import choose_exits, top_probabilities
from offramp.profiling import collect_logits
from offramp.runtimes import open_runtime
from offramp.testing import FakeRuntime

if TYPE_CHECKING:
    from collections.abc import Callable

    from offramp.bundle import Bundle, Policy
    from offramp.classifier import Prediction


def _classifier(runtime: FakeRuntime, policy: Policy | None, monitor: Any) -> DynamicClassifier:
    return DynamicClassifier(
        runtime,
        labels=("ant", "bee", "cat"),
        input_spec=InputSpec(height=8, width=8),
        policy=policy,
        monitor=monitor,
    )


@pytest.fixture
def logits() -> Any:
    """Exit 0 is sure of rows 0 and 1, and wrong, by the last exit, about row 1."""
    return np.array(
        [
            [[9, 0, 0], [9, 0, 0], [1, 0, 0], [0, 1, 0]],
            [[9, 0, 0], [0, 9, 0], [9, 0, 0], [0, 1, 0]],
            [[9, 0, 0], [0, 9, 0], [9, 0, 0], [0, 0, 9]],
        ],
        np.float32,
    )


def test_every_image_in_the_shadow(logits: Any, make_policy: Callable[..., Policy]) -> None:
    runtime = FakeRuntime(logits)
    policy = make_policy(thresholds=(0.9, 0.9, 0.0), exit_counts=(5, 2, 1))
    monitor = Monitor(3, [policy], shadow_rate=1.0)
    with _classifier(runtime, policy, monitor) as classifier:
        runtime.stages_run.clear()
        answers = [classifier.predict(runtime.image(row)) for row in range(4)]
        assert runtime.stages_run == [0, 1, 2] * 4, "all stages, and none twice"
    assert [answer.exit for answer in answers] == [0, 0, 1, 2], "the answer stays the early one"
    assert [len(answer.stage_ms) for answer in answers] == [1, 1, 2, 3]
    figures = monitor.summary()
    assert (figures.shadow_runs, figures.shadow_disagreements) == (4, 1)
    assert figures.exit_shares == (0.5, 0.25, 0.25)
    assert figures.total_latency is None
    assert [part.counts for part in monitor.state().drift] == [(2, 1, 1)]


def test_no_shadow_under_a_deadline(logits: Any, make_policy: Callable[..., Policy]) -> None:
    runtime = FakeRuntime(logits)
    monitor = Monitor(3, shadow_rate=1.0)
    with _classifier(runtime, make_policy(thresholds=(0.9, 0.9, 0.0)), monitor) as classifier:
        runtime.stages_run.clear()
        classifier.predict(runtime.image(0), deadline_ms=1000)
        assert runtime.stages_run == [0]
    assert monitor.summary().shadow_runs == 0


def test_a_last_exit_that_is_not_finite_disagrees(
    logits: Any, make_policy: Callable[..., Policy]
) -> None:
    logits[2] = np.nan
    runtime = FakeRuntime(logits)
    monitor = Monitor(3, shadow_rate=1.0)
    with _classifier(runtime, make_policy(thresholds=(0.9, 0.9, 0.0)), monitor) as classifier:
        assert classifier.predict(runtime.image(0)).label == "ant"
    assert monitor.summary().shadow_disagreements == 1


def test_the_scores_of_many_are_those_of_each(make_policy: Callable[..., Policy]) -> None:
    rng = np.random.default_rng(0)
    every = []
    for classes in (2, 10, 64, 65, 1000):
        runtime = FakeRuntime(rng.normal(0, 4, (3, 20, classes)))
        with DynamicClassifier(
            runtime,
            labels=[str(index) for index in range(classes)],
            input_spec=InputSpec(height=8, width=8),
            policy=make_policy(temperatures=(2.0, 0.7, 1.3)),
        ) as classifier:
            some = [classifier.predict(runtime.image(row)) for row in range(20)]
        _check_scores(some)
        every += some
    _check_scores(every)  # of several networks at once
    _check_scores([])


def _check_scores(predictions: list[Prediction]) -> None:
    found = top_probabilities([prediction.evidence() for prediction in predictions])
    assert found == pytest.approx([prediction.score for prediction in predictions], rel=1e-12)


def test_a_real_program(bundle: Bundle, programs: Any, make_policy: Callable[..., Policy]) -> None:
    with open_runtime(bundle, "litert/int8") as runtime:
        logits = collect_logits(runtime, programs.images)
    policy = make_policy(thresholds=(0.4, 0.4, 0.0))
    monitor = Monitor(3, [policy], shadow_rate=1.0)
    with DynamicClassifier.load(
        bundle, program="litert/int8", policy=policy, monitor=monitor
    ) as classifier:
        answers = [classifier.predict(image) for image in programs.images]
    exits = choose_exits(policy, logits)
    assert [answer.exit for answer in answers] == exits.tolist()
    early = logits[exits, np.arange(len(exits))].argmax(axis=-1)
    figures = monitor.summary()
    assert figures.shadow_disagreements == int((early != logits[-1].argmax(axis=-1)).sum())
    assert figures.shadow_runs == len(programs.images)


def test_no_image_is_kept(logits: Any) -> None:
    """Bytes that only the images hold are not in what a monitor gives away."""
    runtime = FakeRuntime(logits)
    monitor = Monitor(3)
    secret = os.urandom(16).hex()
    with DynamicClassifier(
        runtime,
        labels=(secret, "bee", "cat"),
        input_spec=InputSpec(height=8, width=8),
        policy=None,
        monitor=monitor,
    ) as classifier:
        assert classifier.predict(runtime.image(0)).label == secret
    from offramp.monitoring import encode_state

    assert secret not in monitor.prometheus()
    assert secret.encode() not in encode_state(monitor.state())
