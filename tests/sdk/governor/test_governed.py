"""The governed classifier, on scripted logits with a scripted clock, and on a real program."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from offramp import DynamicClassifier, Policy
from offramp.bundle import Certificate, InputSpec
from offramp.classifier import LiveClassifier
from offramp.errors import BundleError, ClosedError, DeadlineError
from offramp.governor import GovernedClassifier
from offramp.testing import FakeRuntime

if TYPE_CHECKING:
    from collections.abc import Callable

    from offramp import Bundle


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
def policies(make_policy: Callable[..., Policy], certificate: Certificate) -> list[Policy]:
    shared = {"certificates": (certificate,)}
    return [
        make_policy(
            name="accurate", thresholds=(1.0, 1.0, 0.0), exit_shares=(0.0, 0.0, 1.0), **shared
        ),
        make_policy(
            name="saver", thresholds=(0.0, 0.0, 0.0), exit_shares=(1.0, 0.0, 0.0), **shared
        ),
    ]


class _Clock:
    now_ms = 0.0

    def __call__(self) -> float:
        return self.now_ms


def _classifier(fake: FakeRuntime, policies: list[Policy]) -> DynamicClassifier:
    return DynamicClassifier(
        fake,
        labels=("ant", "bee"),
        input_spec=InputSpec(height=8, width=8),
        policy=policies[0],
        policies=policies,
    )


def test_it_saves_when_the_budget_is_short_and_says_so(policies: list[Policy]) -> None:
    fake = FakeRuntime(np.zeros((3, 1, 2)), stage_ms=(2, 2, 2))
    clock = _Clock()
    names = ("accurate", "saver")
    with GovernedClassifier(
        _classifier(fake, policies), names, budget_ms=40, window_ms=1000, now_ms=clock
    ) as governed:
        assert (governed.policy, governed.level_ms, governed.workers) == ("accurate", 40, 1)
        answers = []
        for _ in range(10):  # all at once: no time passes
            answers.append(governed.predict(fake.image(0)))
        used = [answer.policy for answer in answers]
        assert used[0] == "accurate"
        assert set(used[4:]) == {"saver"}
        assert used == sorted(used), "it does not flap"
        for answer in answers:
            assert answer.exit == (2 if answer.policy == "accurate" else 0)
        spent = sum(sum(answer.stage_ms) for answer in answers)
        assert governed.level_ms == pytest.approx(40 - spent)
        clock.now_ms = 1000.0
        assert governed.policy == "accurate"
        assert not governed.exhausted
        fake.stages_run.clear()
        while not governed.exhausted:
            governed.predict(fake.image(0))
        assert governed.policy == "saver"
    assert fake.closed
    with pytest.raises(ClosedError):
        governed.predict(fake.image(0))


def test_what_is_refused(
    policies: list[Policy], make_policy: Callable[..., Policy], calibrated: Bundle
) -> None:
    fake = FakeRuntime(np.zeros((3, 1, 2)))
    classifier = _classifier(fake, [*policies, make_policy(name="bare", exit_shares=(1, 0, 0))])
    for names, message in (
        (("accurate", "bare"), "bare has no certificate"),
        (("saver", "accurate"), "accurate is not cheaper than saver"),
        (("accurate", "none"), "no policy 'none'"),
        (("accurate", "last"), "'last' is no policy"),
    ):
        with pytest.raises(BundleError, match=message):
            GovernedClassifier(classifier, names, budget_ms=1, window_ms=1)
    wrong: tuple[Any, ...] = (("accurate",), "saver", ("saver", "saver"))
    for given in wrong:
        with pytest.raises(ValueError, match="expected at least two names"):
            GovernedClassifier(classifier, given, budget_ms=1, window_ms=1)
    options: dict[str, Any] = {"policies": ("accurate", "saver"), "window_ms": 1.0}
    with pytest.raises(ValueError, match="budget_ms is 0"):
        GovernedClassifier.load(calibrated, **options, budget_ms=0.0)
    with pytest.raises(ValueError, match="policies is empty"):
        GovernedClassifier.load(calibrated, policies=(), budget_ms=1.0, window_ms=1.0)
    with pytest.raises(DeadlineError):
        GovernedClassifier.load(calibrated, **options, budget_ms=1.0, deadline_ms=1e-6)


@pytest.fixture
def calibrated(bundle: Bundle, policies: list[Policy]) -> Bundle:
    for policy in policies:
        bundle = bundle.add_policy(policy)
    return bundle


# The window is so long that nothing flows in.
def _governed(bundle: Bundle, **changes: Any) -> GovernedClassifier:
    values: dict[str, Any] = {
        "policies": ("accurate", "saver"),
        "budget_ms": 1e4,
        "window_ms": 1e15,
    }
    return GovernedClassifier.load(bundle, **{**values, **changes})


def test_a_real_program_under_both_policies(calibrated: Bundle) -> None:
    images = calibrated.vectors().images
    expected = {}
    for name in ("accurate", "saver"):
        with DynamicClassifier.load(calibrated, policy=name) as classifier:
            expected[name] = [classifier.predict(image) for image in images]
    # Nothing flows in, and a few predictions use up what there is.
    with _governed(calibrated, budget_ms=2.0) as governed:
        assert governed.labels == calibrated.manifest.labels
        assert governed.input_spec == calibrated.manifest.input
        used = []
        for number in range(10_000):
            answer = governed.predict(images[number % 8], max_results=1)
            wanted = expected[answer.policy][number % 8]
            assert (answer.index, answer.exit, answer.score) == (
                wanted.index,
                wanted.exit,
                wanted.score,
            )
            assert answer.categories == wanted.categories[:1]
            used.append(answer.policy)
            if governed.exhausted and answer.policy == "saver":
                break
    assert used == sorted(used)
    assert set(used) == {"accurate", "saver"}


def test_threads_and_streams_share_one_budget(calibrated: Bundle) -> None:
    images = calibrated.vectors().images
    with _governed(calibrated, workers=2) as governed:
        before = governed.level_ms
        answers = [*governed.predict_many([*images] * 20)]
        done = threading.Event()
        with LiveClassifier(governed, lambda *_: done.set()) as live:
            live.submit(images[0], 0)
            assert done.wait(20)
            last = live.latest()
        assert last is not None
        spent = sum(sum(answer.stage_ms) for answer in (*answers, last[0]))
        assert before - governed.level_ms == pytest.approx(spent, rel=1e-3)
    assert {answer.policy for answer in answers} == {"accurate"}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks on this system")
@pytest.mark.filterwarnings("ignore:.*JAX is multithreaded:RuntimeWarning")
def test_a_forked_child_is_refused(calibrated: Bundle) -> None:
    with _governed(calibrated) as governed:
        child = os.fork()
        if child == 0:
            try:
                governed.predict(calibrated.vectors().images[0])
            except ClosedError as error:
                os._exit("forked" not in str(error))
            os._exit(2)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
