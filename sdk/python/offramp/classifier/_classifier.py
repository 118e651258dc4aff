"""The classifier that stops early."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING, final

import numpy as np

from offramp.bundle import Bundle
from offramp.classifier._base import Classifier
from offramp.classifier._limits import StageLimits, check_reachable, find_limits, measured_limits
from offramp.classifier._options import check_deadline, listing
from offramp.classifier._pool import WalkerPool
from offramp.classifier._prediction import Prediction
from offramp.classifier._walk import LAST, ExitRule, Walker, check_stages, choose_policy
from offramp.errors import BundleError, ProgramError
from offramp.images import load_image
from offramp.policy import top_class
from offramp.runtimes import Runtime, SelfTest, open_runtime

if TYPE_CHECKING:
    import os
    from collections.abc import Collection, Sequence
    from typing import Unpack

    from offramp.bundle import InputSpec, Policy
    from offramp.classifier._options import Listing, PolicyOptions
    from offramp.images import ImageLike, Region
    from offramp.monitoring import PredictionMonitor
    from offramp.signing import Trust

__all__ = ["DynamicClassifier"]

_ARRAY, _UINT8 = np.ndarray, np.dtype(np.uint8)


@final
class DynamicClassifier(Classifier):
    """Classifies images, and answers easy ones early.

    Make one with ``DynamicClassifier.load``. Any number of threads may use one object; as many
    images as it has ``workers`` are predicted at the same time, the others wait. Close it, or use
    it in a ``with`` statement, to free the program. A classifier does not survive a fork: in the
    child every prediction raises ``ClosedError``, and in the parent nothing changes.

    Args:
        runtimes: The loaded program, or several copies of it; closed together with the classifier.
        labels: One per class.
        input_spec: How an image becomes the input.
        policy: When to stop; ``None`` runs every image to the last exit.
        policies: Others that a prediction may choose by name.
        limits: What the stages take at most, for deadlines; ``None`` times them here.
        deadline_ms: Of every prediction that does not say another.
        monitor: Hears of every prediction; ``None`` costs nothing.

    Raises:
        DeadlineError: Stage 0 alone takes longer than ``deadline_ms``.
    """

    def __init__(
        self,
        runtimes: Runtime | Sequence[Runtime],
        *,
        labels: Sequence[str],
        input_spec: InputSpec,
        policy: Policy | None,
        policies: Sequence[Policy] = (),
        limits: StageLimits | None = None,
        deadline_ms: float | None = None,
        monitor: PredictionMonitor | None = None,
    ) -> None:
        copies = (runtimes,) if isinstance(runtimes, Runtime) else tuple(runtimes)
        stages = copies[0].num_stages
        chosen = () if policy is None else (policy,)
        check_stages(stages, (*chosen, *policies), limits)
        self._labels = tuple(labels)
        self._indices = {label: index for index, label in enumerate(self._labels)}
        self._input = input_spec
        self._shape = (input_spec.height, input_spec.width, 3)
        self._policy = policy
        rules = [
            ExitRule.of(place, known, stages, len(self._labels))
            for place, known in enumerate((None, *policies, *chosen))
        ]
        self._last, *others = rules
        self._rules = {rule.policy.name: rule for rule in others if rule.policy is not None}
        self._chosen = self._last if policy is None else self._rules[policy.name]
        if limits is None:
            limits = measured_limits(copies[0], input_spec)
        self._limits = limits
        self._deadline_ms = deadline_ms
        self._monitor = monitor
        if deadline_ms is not None:
            check_deadline(deadline_ms)
            check_reachable(deadline_ms, limits)
        self._unasked = self._asked()
        self._pool = WalkerPool(
            [
                Walker(runtime, rules, self._shape, len(self._labels), limits.ms)
                for runtime in copies
            ]
        )

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str] | Bundle,
        *,
        program: str | None = None,
        policy: str | Policy | None = None,
        threads: int = 1,
        workers: int = 1,
        deadline_ms: float | None = None,
        runtime: str | None = None,
        self_test: SelfTest = "first",
        trust: Trust | None = None,
        monitor: PredictionMonitor | None = None,
    ) -> DynamicClassifier:
        """Load a bundle.

        Args:
            path: A bundle's folder or zip, or one that is open already.
            program: ``runtime/precision``; ``None`` takes ``litert/int8`` if it has a policy, else
                the first program listed.
            policy: The name of one of the program's policies, or a policy that is not in the
                bundle; ``None`` takes ``default``, or the only one there is. ``"last"`` needs no
                policy: every image runs to the last exit.
            threads: How many threads the kernels may use for one image.
            workers: How many images may be predicted at the same time, by several threads or by
                ``predict_many``; each worker is a copy of the program in memory.
            deadline_ms: Of every prediction that does not say another. If the bundle has no
                profile of this device that is long enough to state a 99th percentile (``offramp
                profile --runs 300 --save``), the stages are timed now, for two seconds at most.
            runtime: What is to run the program, as for ``open_runtime``; ``None`` takes the first
                that is installed.
            self_test: When to run the bundle's test images and compare with what was recorded:
                ``first`` the first time on this machine, ``always``, or ``never``; what is new here
                runs in a process of its own before, unless this is ``in_process``.
            trust: Who must have signed the bundle, such as ``TrustedKey("key.pub")``; for a bundle
                that is open already, say it to ``Bundle.open``.
            monitor: Hears of every prediction, such as ``offramp.monitoring.Monitor``; the images
                it chooses for a shadow run take the time of all stages.

        Raises:
            BundleError: There is no such bundle, program or policy, or the bundle is not sound.
            SignatureError: The bundle is not signed by whom it must be, or was changed since.
            DeadlineError: Stage 0 alone takes longer than ``deadline_ms``.
            ProgramError: The runtime refused the program.
            SelfTestError: It does not answer here as it did where the bundle was made.
            MissingExtraError: No runtime for it is installed.
        """
        if workers < 1:
            raise ValueError(f"workers is {workers}, expected at least 1")
        if deadline_ms is not None:
            check_deadline(deadline_ms)
        if isinstance(path, Bundle) and trust is not None:
            raise ValueError("the bundle is open already; say whom to trust to Bundle.open")
        bundle = path if isinstance(path, Bundle) else Bundle.open(path, trust=trust)
        entry = bundle.program(program)
        chosen = choose_policy(bundle, entry.name, policy)
        runtimes: list[Runtime] = []
        try:
            for worker in range(workers):
                runtimes.append(
                    open_runtime(
                        bundle,
                        entry.name,
                        threads=threads,
                        runtime=runtime,
                        self_test="never" if worker else self_test,
                    )
                )
            return cls(
                runtimes,
                labels=bundle.manifest.labels,
                input_spec=bundle.manifest.input,
                policy=chosen,
                policies=[
                    known for known in bundle.manifest.policies if known.program == entry.name
                ],
                limits=find_limits(
                    bundle, entry.name, threads, runtimes[0], careful=deadline_ms is not None
                ),
                deadline_ms=deadline_ms,
                monitor=monitor,
            )
        except BaseException:
            for opened in runtimes:
                opened.close()
            raise

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the classes."""
        return self._labels

    @property
    def input_spec(self) -> InputSpec:
        """How an image becomes the input."""
        return self._input

    @property
    def workers(self) -> int:
        """How many images it can predict at the same time."""
        return len(self._pool)

    @property
    def policy(self) -> Policy | None:
        """When to stop; ``None`` if every image runs to the last exit."""
        return self._policy

    @property
    def stage_limits(self) -> StageLimits:
        """What the stages take at most, as deadlines reckon, and where that is known from."""
        return self._limits

    def predict(self, image: ImageLike, **options: Unpack[PolicyOptions]) -> Prediction:
        """Classify one image.

        Stages run until an exit answers: the first enabled one whose signal reaches its threshold,
        or the last. With a deadline, the exit reached so far answers as soon as the time gone by
        and the most the next stage takes (``stage_limits``) exceed it. A stage that has started
        cannot be stopped and stage 0 always runs, so a deadline shorter than stage 0 is overrun.

        Args:
            image: A path, a file's content, a PIL image, or an ``(H, W, 3)`` uint8 array in RGB
                order.
            deadline_ms: Answer within so many milliseconds of the call, decoding and waiting for
                other threads included; ``None`` takes the one given to ``load``, ``math.inf`` has
                none.
            max_results: How many categories to list at most; ``None`` lists all.
            score_threshold: List no categories of a smaller score; the answer itself is always
                given.
            category_allowlist: List only categories of these labels.
            category_denylist: List no categories of these labels; not together with an allow list.
            region_of_interest: ``(left, top, right, bottom)`` of the part to look at, as fractions
                of the image's width and height; it is cut out first, then turned, and then brought
                to the input's size as a whole image would be.
            rotation_degrees: How far to turn it clockwise, a multiple of 90.
            policy: The name of another policy of the program, for this prediction; ``"last"`` runs
                to the last exit.

        Raises:
            ImageError: The image cannot be used.
            BundleError: There is no such policy.
            ClosedError: The classifier is closed, or was loaded before a fork.
            ProgramError: The runtime failed, or the program's logits are not finite.
            ValueError: An option is out of its range, or names no label.
        """
        began_s = perf_counter()
        # Most calls ask for nothing, and do not wait until that is found out option by option.
        asked = self._asked(**options) if options else self._unasked
        listed, rule, deadline_ms, region, rotation_degrees = asked
        if (
            # Any other array that will do is found out to below.
            type(image) is _ARRAY
            and image.dtype is _UINT8
            and image.shape == self._shape
            and region is None
            and not rotation_degrees
        ):
            array = image
        else:
            array = load_image(image, self._input, region=region, rotation_degrees=rotation_degrees)
        monitor = self._monitor
        shadow = monitor is not None and deadline_ms is None and monitor.wants_shadow()
        shadow_index = None
        pool = self._pool
        try:
            walker = pool.free.pop()
        except IndexError:
            walker = pool.wait()
        try:
            patient, hurried = walker.walks[rule.place]
            exit, reason, clock_s, logits = (
                patient(array, began_s)
                if deadline_ms is None
                else hurried(array, began_s, began_s + 1e-3 * deadline_ms)
            )
            if shadow:
                shadow_index = walker.finish(exit, logits)
        finally:
            pool.home.append(walker)
            if pool.waiting:
                pool.wake()
        index = top_class(logits)
        if index is None:
            raise ProgramError(f"exit {exit} gave logits that are not finite; verify the bundle")
        clock_s.append(perf_counter())
        prediction = Prediction(
            index, exit, reason, clock_s, logits, rule.policy, self._labels, listed
        )
        if monitor is not None:
            monitor.record(prediction, shadow_index)
        return prediction

    def close(self) -> None:
        """Free the program; may be called more than once.

        Waits for predictions that other threads have begun.
        """
        self._pool.close()

    def find_policy(self, name: str) -> Policy:
        """Another policy of the program, by its name.

        Raises:
            BundleError: There is no such policy; the message lists those there are.
        """
        policy = self._find(name).policy
        if policy is None:
            raise BundleError("'last' is no policy: it runs every image to the last exit")
        return policy

    def _asked(
        self,
        *,
        deadline_ms: float | None = None,
        max_results: int | None = None,
        score_threshold: float = 0.0,
        category_allowlist: Collection[str] | None = None,
        category_denylist: Collection[str] | None = None,
        region_of_interest: Region | None = None,
        rotation_degrees: int = 0,
        policy: str | None = None,
    ) -> tuple[Listing, ExitRule, float | None, Region | None, int]:
        """What a caller of ``predict`` wants, checked; the names are those of its options."""
        if deadline_ms is None:
            deadline_ms = self._deadline_ms
        else:
            check_deadline(deadline_ms)
        listed = listing(
            self._indices, max_results, score_threshold, category_allowlist, category_denylist
        )
        rule = self._chosen if policy is None else self._find(policy)
        return listed, rule, deadline_ms, region_of_interest, rotation_degrees

    def _find(self, policy: str) -> ExitRule:
        if policy == LAST:
            return self._last
        if policy not in self._rules:
            known = ", ".join([*self._rules, LAST])
            raise BundleError(f"no policy {policy!r} for this program; it has {known}")
        return self._rules[policy]
