"""The classifier that stops early."""

from __future__ import annotations

import statistics
import threading
from collections import deque
from time import perf_counter
from typing import TYPE_CHECKING, Self, final

import numpy as np

from offramp.bundle import Bundle
from offramp.classifier._prediction import Prediction, Reason
from offramp.errors import BundleError, ClosedError, ProgramError
from offramp.images import load_image
from offramp.latency import Latency
from offramp.policy import decides, top_class
from offramp.profiling import device_record
from offramp.runtimes import Runtime, open_runtime

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from offramp.bundle import InputSpec, Policy
    from offramp.images import ImageLike

__all__ = ["DynamicClassifier"]

_LAST = "last"
_WINDOW = 31  # how many of a stage's latest times its expected time is the median of
_ENOUGH = 5  # with fewer, a recorded measurement knows better


@final
class DynamicClassifier:
    """Classifies images, and answers easy ones early.

    Make one with ``DynamicClassifier.load``. One object may be used by many threads: images are
    taken one after the other. Close it, or use it in a ``with`` statement, to free the program.

    Args:
        runtime: The loaded program; closed together with the classifier.
        labels: One per class.
        input_spec: How an image becomes the input.
        policy: When to stop; ``None`` runs every image to the last exit.
        expected_ms: Per stage, the time to expect until enough have been seen here; empty if
            nothing is known.
    """

    def __init__(
        self,
        runtime: Runtime,
        *,
        labels: Sequence[str],
        input_spec: InputSpec,
        policy: Policy | None,
        expected_ms: Sequence[float] = (),
    ) -> None:
        stages = runtime.num_stages
        for name, given in (("policy", policy and policy.enabled), ("expected_ms", expected_ms)):
            if given and len(given) != stages:
                raise BundleError(f"{name} is for {len(given)} stages, the program has {stages}")
        self._runtime: Runtime | None = runtime
        self._labels = tuple(labels)
        self._input = input_spec
        self._policy = policy
        self._expected_ms = tuple(expected_ms)
        enabled = (False,) * stages if policy is None else policy.enabled
        self._asks = (*enabled[:-1], True)
        self._asks_all = (True,) * stages
        self._lock = threading.Lock()
        self._seen_ms = [deque[float](maxlen=_WINDOW) for _ in range(stages)]
        self._see_every_stage_once()

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str] | Bundle,
        *,
        program: str | None = None,
        policy: str | Policy | None = None,
        threads: int = 1,
    ) -> DynamicClassifier:
        """Load a bundle.

        Args:
            path: A bundle's folder or zip, or one that is open already.
            program: ``runtime/precision``; ``None`` takes ``litert/int8`` if it has a policy, else
                the first program listed.
            policy: The name of one of the program's policies, or a policy that is not in the
                bundle; ``None`` takes ``default``, or the only one there is. ``"last"`` needs no
                policy: every image runs to the last exit.
            threads: How many threads the kernels may use.

        Raises:
            BundleError: There is no such bundle, program or policy, or the bundle is not sound.
            ProgramError: The runtime refused the program.
        """
        bundle = path if isinstance(path, Bundle) else Bundle.open(path)
        entry = bundle.program(program)
        chosen: Policy | None
        if policy == _LAST:
            chosen = None
        elif policy is None or isinstance(policy, str):
            chosen = bundle.policy(entry.name, policy)
        else:
            chosen = policy
            if chosen.program != entry.name:
                raise BundleError(
                    f"the policy was calibrated on {chosen.program}, the program is {entry.name}; "
                    f"choose that program, or calibrate on this one"
                )
        return cls(
            open_runtime(bundle, entry.name, threads=threads),
            labels=bundle.manifest.labels,
            input_spec=bundle.manifest.input,
            policy=chosen,
            expected_ms=_recorded_ms(bundle, entry.name, threads),
        )

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the classes."""
        return self._labels

    @property
    def policy(self) -> Policy | None:
        """When to stop; ``None`` if every image runs to the last exit."""
        return self._policy

    def predict(
        self,
        image: ImageLike,
        *,
        deadline_ms: float | None = None,
        max_results: int | None = None,
        score_threshold: float = 0.0,
    ) -> Prediction:
        """Classify one image.

        Stages run until an exit answers: the first enabled one whose signal reaches its threshold,
        or the last. With a deadline, the exit reached so far answers as soon as the time gone by
        and the time the next stage is expected to take exceed it. A stage that has started cannot
        be stopped and stage 0 always runs, so a deadline shorter than stage 0 is overrun.

        Args:
            image: A path, a file's content, a PIL image, or an ``(H, W, 3)`` uint8 array in RGB
                order.
            deadline_ms: Answer within so many milliseconds of the call, waiting for other threads
                included.
            max_results: How many categories to list at most; ``None`` lists all.
            score_threshold: List no categories of a smaller score; the answer itself is always
                given.

        Raises:
            ImageError: The image cannot be used.
            ClosedError: The classifier is closed.
            ProgramError: The runtime failed, or the program's logits are not finite.
        """
        began = perf_counter()
        if deadline_ms is not None and not deadline_ms > 0:
            raise ValueError(f"deadline_ms is {deadline_ms}, expected a time above 0")
        if max_results is not None and max_results < 1:
            raise ValueError(f"max_results is {max_results}, expected at least 1, or None for all")
        array = load_image(image, self._input)
        policy = self._policy
        # With a deadline, any exit may have to answer.
        asks = self._asks if deadline_ms is None else self._asks_all
        stage_ms: list[float] = []
        reason: Reason = "last_exit"
        with self._lock:
            runtime = self._runtime
            if runtime is None:
                raise ClosedError("this classifier is closed; load the bundle again")
            runtime.start(array)
            last = runtime.num_stages - 1
            exit = 0
            while True:
                stage_began = perf_counter()
                if asks[exit]:
                    logits = runtime.run(exit)
                else:
                    runtime.skip(exit)
                stage_ended = perf_counter()
                took_ms = 1e3 * (stage_ended - stage_began)
                stage_ms.append(took_ms)
                self._seen_ms[exit].append(took_ms)
                if exit == last:
                    break
                if policy is not None and asks[exit] and decides(policy, exit, logits):
                    reason = "confident"
                    break
                if deadline_ms is not None:
                    gone_ms = 1e3 * (stage_ended - began)
                    if gone_ms + self._next_ms(exit + 1) > deadline_ms:
                        reason = "deadline"
                        break
                exit += 1
        index = top_class(logits)
        if index is None:
            raise ProgramError(f"exit {exit} gave logits that are not finite; verify the bundle")
        return Prediction(
            label=self._labels[index],
            index=index,
            exit=exit,
            reason=reason,
            stage_ms=tuple(stage_ms),
            total_ms=1e3 * (perf_counter() - began),
            logits=logits,
            temperature=1.0 if policy is None else policy.temperatures[exit],
            labels=self._labels,
            max_results=max_results,
            score_threshold=score_threshold,
        )

    def close(self) -> None:
        """Free the program; may be called more than once."""
        with self._lock:
            if self._runtime is not None:
                self._runtime.close()
                self._runtime = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _next_ms(self, stage: int) -> float:
        seen = self._seen_ms[stage]
        if len(seen) < _ENOUGH and self._expected_ms:
            return self._expected_ms[stage]
        return statistics.median(seen)

    def _see_every_stage_once(self) -> None:
        # So that the first deadline is judged by more than hope.
        assert self._runtime is not None
        self._runtime.start(np.zeros((self._input.height, self._input.width, 3), np.uint8))
        for stage, seen in enumerate(self._seen_ms):
            began = perf_counter()
            self._runtime.run(stage)
            seen.append(1e3 * (perf_counter() - began))


def _recorded_ms(bundle: Bundle, program: str, threads: int) -> tuple[float, ...]:
    """Medians measured on this very device, if the bundle has them."""
    entries = [
        entry
        for entry in bundle.manifest.latencies
        if (entry.program, entry.threads) == (program, threads)
    ]
    if not entries:
        return ()
    here = device_record()
    for entry in entries:
        if entry.device == here:
            return tuple(Latency(samples).median_ms for samples in entry.stage_samples_ms)
    return ()
