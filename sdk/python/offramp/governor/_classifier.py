"""A classifier that keeps to a budget of milliseconds."""

from __future__ import annotations

import os
import threading
import time
from itertools import pairwise
from typing import TYPE_CHECKING, final

import numpy as np

from offramp.classifier import Classifier, DynamicClassifier
from offramp.errors import BundleError, ClosedError
from offramp.governor._bucket import Bucket, BucketState, advance, full

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Unpack

    from offramp.bundle import Bundle, InputSpec, Policy
    from offramp.classifier import Prediction, PredictOptions
    from offramp.images import ImageLike
    from offramp.monitoring import PredictionMonitor

__all__ = ["GovernedClassifier"]


def _monotonic_ms() -> float:
    return 1e3 * time.monotonic()


@final
class GovernedClassifier(Classifier):
    """Spends a budget of milliseconds per window, by choosing among certified policies.

    The time of the stages that ran is taken from a token bucket, into which the budget flows. While
    it is fairly full the first policy decides; as it empties the next cheaper one takes over, and
    later gives way again (``advance`` has the levels). Every answer is that of a policy with a
    certificate of its own, and ``prediction.policy`` says of which. Over a long time no more is
    spent than the budget, and in no window more than twice of it, as long as the cheapest policy
    needs less than flows in; when it does not, no policy can help, and ``exhausted`` says so.

    A certificate speaks of images like those it was made on. That the governor chooses the policy
    by the time spent, and not by the image, does not touch it for images that come independently of
    each other; where hard images come in bursts, it is the cheaper policy that sees more of them.

    Args:
        classifier: With the policies; closed together with this.
        policies: Their names, from the most to the least costly.
        budget_ms: What may be spent in one window, in milliseconds.
        window_ms: The length of a window, in milliseconds.
        hysteresis: As for ``Bucket``.
        now_ms: A clock that does not go back, in milliseconds.
    """

    def __init__(
        self,
        classifier: DynamicClassifier,
        policies: Sequence[str],
        *,
        budget_ms: float,
        window_ms: float,
        hysteresis: float = 0.25,
        now_ms: Callable[[], float] = _monotonic_ms,
    ) -> None:
        if isinstance(policies, str) or len(policies) < 2 or len(set(policies)) < len(policies):
            raise ValueError(
                f"policies is {policies!r}, expected at least two names, "
                "from the most to the least costly"
            )
        found = [classifier.find_policy(name) for name in policies]
        _check(found, classifier.stage_limits.ms)
        self._classifier = classifier
        self._policies = tuple(policies)
        self._bucket = Bucket(budget_ms, window_ms, len(policies), hysteresis)
        self._now_ms = now_ms
        self._state = full(self._bucket, now_ms())
        self._lock = threading.Lock()
        self._process = os.getpid()

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str] | Bundle,
        *,
        policies: Sequence[str],
        budget_ms: float,
        window_ms: float,
        hysteresis: float = 0.25,
        program: str | None = None,
        threads: int = 1,
        workers: int = 1,
        deadline_ms: float | None = None,
        monitor: PredictionMonitor | None = None,
    ) -> GovernedClassifier:
        """Load a bundle.

        Args:
            path: As for ``DynamicClassifier.load``, and so ``program``, ``threads``, ``workers``
                and ``deadline_ms``.
            policies: Names of policies of the program, from the most to the least costly.
            budget_ms: What the stages may take in one window, in milliseconds.
            window_ms: The length of a window, in milliseconds.
            hysteresis: As for ``Bucket``.
            program: Which program.
            threads: Of the kernels.
            workers: Copies of the program.
            deadline_ms: Of every prediction that does not say another.
            monitor: As for ``DynamicClassifier.load``. What its shadow runs take is not counted
                against the budget.

        Raises:
            BundleError: There is no such policy, one has no certificate, or they are not in order.
            DeadlineError: Stage 0 alone takes longer than ``deadline_ms``.
            ProgramError: The runtime refused the program.
        """
        if not policies:
            raise ValueError("policies is empty, expected at least two names")
        classifier = DynamicClassifier.load(
            path,
            program=program,
            policy=policies[0],
            threads=threads,
            workers=workers,
            deadline_ms=deadline_ms,
            monitor=monitor,
        )
        try:
            return cls(
                classifier,
                policies,
                budget_ms=budget_ms,
                window_ms=window_ms,
                hysteresis=hysteresis,
            )
        except BaseException:
            classifier.close()
            raise

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the classes."""
        return self._classifier.labels

    @property
    def input_spec(self) -> InputSpec:
        """How an image becomes the input."""
        return self._classifier.input_spec

    @property
    def workers(self) -> int:
        """How many images it can predict at the same time."""
        return self._classifier.workers

    @property
    def policy(self) -> str:
        """The name of the policy that would decide now."""
        return self._policies[self._advance(0.0).choice]

    @property
    def level_ms(self) -> float:
        """What may be spent now, in milliseconds; below 0 if more was spent than there was."""
        return self._advance(0.0).level_ms

    @property
    def exhausted(self) -> bool:
        """Whether the budget is overdrawn although the cheapest policy decides."""
        return self.level_ms < 0.0

    def predict(self, image: ImageLike, **options: Unpack[PredictOptions]) -> Prediction:
        """Classify one image by the policy that the budget allows.

        The options are those of ``DynamicClassifier.predict``. With a deadline an exit may answer
        that the policy did not choose; the reason says so, and no certificate covers it.
        """
        prediction = self._classifier.predict(image, policy=self.policy, **options)
        self._advance(sum(prediction.stage_ms))
        return prediction

    def close(self) -> None:
        """Free the program; may be called more than once."""
        self._classifier.close()

    def _advance(self, spent_ms: float) -> BucketState:
        # Before the lock: a thread of the parent may have held it at the fork.
        if os.getpid() != self._process:
            raise ClosedError(
                "this classifier was loaded before this process was forked; "
                "load the bundle in this process"
            )
        with self._lock:
            self._state = advance(self._bucket, self._state, self._now_ms(), spent_ms)
            return self._state


def _check(policies: Sequence[Policy], limits_ms: Sequence[float]) -> None:
    """Refuse policies that promise nothing, and an order that would save nothing."""
    for policy in policies:
        if not policy.certificates:
            raise BundleError(
                f"the policy {policy.name} has no certificate; make one with `offramp calibrate`"
            )
    up_to_exit_ms = np.cumsum(limits_ms)
    for costly, cheap in pairwise(policies):
        costs = [float(up_to_exit_ms @ policy.exit_shares) for policy in (costly, cheap)]
        if not costs[1] < costs[0]:
            raise BundleError(
                f"the policy {cheap.name} is not cheaper than {costly.name}, by the shares of "
                "images per exit when they were certified; give them from the most to the least "
                "costly"
            )
