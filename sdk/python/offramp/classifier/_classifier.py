"""The classifier that stops early."""

from __future__ import annotations

import threading
from time import perf_counter
from typing import TYPE_CHECKING, Self, final

from offramp.bundle import Bundle
from offramp.classifier._limits import StageLimits, measured_limits, profiled_limits
from offramp.classifier._prediction import Prediction
from offramp.classifier._walk import walk
from offramp.errors import BundleError, ClosedError, ProgramError
from offramp.images import load_image
from offramp.policy import top_class
from offramp.runtimes import open_runtime

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from offramp.bundle import InputSpec, Policy
    from offramp.images import ImageLike
    from offramp.runtimes import Runtime

__all__ = ["DynamicClassifier"]

_LAST = "last"
# What is timed at load where the bundle has no profile: enough to name a time, not a percentile.
_RUNS_AT_LOAD = 10
_MOST_MS_AT_LOAD = 20.0


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
        limits: What the stages take at most, for deadlines; ``None`` times them here.
    """

    def __init__(
        self,
        runtime: Runtime,
        *,
        labels: Sequence[str],
        input_spec: InputSpec,
        policy: Policy | None,
        limits: StageLimits | None = None,
    ) -> None:
        stages = runtime.num_stages
        for name, given in (("policy", policy and policy.enabled), ("limit", limits and limits.ms)):
            if given and len(given) != stages:
                raise BundleError(
                    f"the {name} is for {len(given)} stages, the program has {stages}"
                )
        self._runtime: Runtime | None = runtime
        self._labels = tuple(labels)
        self._input = input_spec
        self._policy = policy
        enabled = (False,) * stages if policy is None else policy.enabled
        self._asks = (*enabled[:-1], True)
        self._asks_all = (True,) * stages
        self._lock = threading.Lock()
        self._limits = limits or measured_limits(
            runtime,
            (input_spec.height, input_spec.width, 3),
            runs=_RUNS_AT_LOAD,
            most_ms=_MOST_MS_AT_LOAD,
        )

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
            limits=profiled_limits(bundle, entry.name, threads),
        )

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the classes."""
        return self._labels

    @property
    def policy(self) -> Policy | None:
        """When to stop; ``None`` if every image runs to the last exit."""
        return self._policy

    @property
    def stage_limits(self) -> StageLimits:
        """What the stages take at most, as deadlines reckon, and where that is known from."""
        return self._limits

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
        and the most the next stage takes (``stage_limits``) exceed it. A stage that has started
        cannot be stopped and stage 0 always runs, so a deadline shorter than stage 0 is overrun.

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
        deadline_s = None if deadline_ms is None else began + 1e-3 * deadline_ms
        with self._lock:
            runtime = self._runtime
            if runtime is None:
                raise ClosedError("this classifier is closed; load the bundle again")
            exit, reason, stage_ms, logits = walk(
                runtime, array, asks, policy, self._limits.ms, deadline_s
            )
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
