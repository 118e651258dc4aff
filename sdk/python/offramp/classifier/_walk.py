"""The inner loop: stage after stage, until an exit answers.

The lines here run between two stages, with caches that the kernels have just filled with other
things: every call and every object counts, so whatever can be known before an image comes lies
ready in the variables of one function.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, TypeAlias, final

import numpy as np

from offramp.policy import FEW_CLASSES, make_decider, top_class

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from offramp.bundle import Policy
    from offramp.classifier._prediction import Reason
    from offramp.policy import Decider, Logits
    from offramp.runtimes import BoundProgram, Runtime

    Walk: TypeAlias = Callable[
        [NDArray[np.uint8], float | None], tuple[int, Reason, list[float], Logits]
    ]

__all__ = ["LAST", "ExitRule", "Walker"]

LAST = "last"
"""In place of a policy's name: every image runs to the last exit."""


@final
@dataclass(frozen=True, slots=True)
class ExitRule:
    """A policy with all that can be known before the first image.

    Attributes:
        place: Where a walker keeps its walk.
        policy: The policy; ``None`` runs to the last exit.
        name: The policy's, or ``last``.
        by_lead: Whether the logits are lists, whose lead tells more than nothing.
        deciders: Per exit, whether it answers; ``None`` for one that is not asked, and for the
            last, which need not be.
    """

    place: int
    policy: Policy | None
    name: str
    by_lead: bool
    deciders: tuple[Decider | None, ...]

    @classmethod
    def of(cls, place: int, policy: Policy | None, stages: int, classes: int) -> ExitRule:
        """The rule of a policy for a program of so many stages and classes."""
        deciders = [
            None if policy is None else make_decider(policy, exit, classes)
            for exit in range(stages - 1)
        ]
        by_lead = policy is not None and policy.signal == "max_probability"
        name = LAST if policy is None else policy.name
        return cls(place, policy, name, by_lead and classes <= FEW_CLASSES, (*deciders, None))


@final
class Walker:
    """A copy of the program, with a walk for each rule; one thread at a time may use it.

    Args:
        runtime: The program.
        rules: By their place.
        image_shape: ``(height, width, 3)`` of every image.
        classes: How many there are.
        limits_ms: Per stage, the time it is sure to take no longer than, in milliseconds; looked
            at only with a deadline.
    """

    __slots__ = ("_runtime", "_stages", "walks")

    def __init__(
        self,
        runtime: Runtime,
        rules: Sequence[ExitRule],
        image_shape: tuple[int, int, int],
        classes: int,
        limits_ms: Sequence[float],
    ) -> None:
        self._runtime = runtime
        # Nobody looks at the size of an image again.
        runtime.start(np.zeros(image_shape, np.uint8))
        program = runtime.bind()
        self._stages = program.stages
        self.walks = [
            _make_walk(program, rule, classes <= FEW_CLASSES, limits_ms) for rule in rules
        ]
        """Per rule, a function that runs the stages of one image until an exit answers.

        It takes the image, ``(height, width, 3)`` uint8 as the program takes it, and when to
        answer, on the clock of ``time.perf_counter`` in seconds, or ``None``. It gives the exit
        that answered, why, the time of each stage that ran in milliseconds, and the logits.
        """

    def finish(self, exit: int, logits: Logits) -> int:
        """Run the stages that an answer has left out, to learn what the last exit would have said.

        Args:
            exit: The exit that answered.
            logits: Its logits.

        Returns:
            The class the last exit gives; -1, which is none, if its logits are not finite.
        """
        *before, last = self._stages
        if exit < len(before):
            for stage in before[exit + 1 :]:
                stage.skip()
            logits = last.run()
        index = top_class(logits)
        return -1 if index is None else index

    def close(self) -> None:
        """Free the program."""
        self._runtime.close()


def _make_walk(
    program: BoundProgram, rule: ExitRule, few: bool, limits_ms: Sequence[float]
) -> Walk:
    start, stages = program
    last = len(stages) - 1
    asked: list[Callable[[], Logits]] = [
        stage.run_list if few else stage.run  # of few classes plain floats are quicker
        for stage in stages
    ]
    nothing: Logits = []
    hurried = tuple(zip(asked, rule.deciders, strict=True))
    # Whose exit is not asked and need not answer in a hurry is run for its carry alone.
    patient = tuple(
        (run if decider is not None or exit == last else stage.skip, decider)
        for exit, (stage, run, decider) in enumerate(zip(stages, asked, rule.deciders, strict=True))
    )
    by_lead, lowest = rule.by_lead, -math.inf
    next_limits_s = (*(1e-3 * limit_ms for limit_ms in limits_ms[1:]), -math.inf)

    def walk(
        image: NDArray[np.uint8], deadline_s: float | None
    ) -> tuple[int, Reason, list[float], Logits]:
        start(image)
        stage_ms: list[float] = []
        logits = nothing
        for exit, (run, decider) in enumerate(patient if deadline_s is None else hurried):
            began = perf_counter()
            logits = run()
            ended = perf_counter()
            stage_ms.append(1e3 * (ended - began))
            if decider is not None:
                never_below, always_above, decide = decider
                if by_lead:
                    # Sorting, or two searches, would have to bring their own code into the cache.
                    largest = second = lowest
                    for value in logits:
                        if value > second:
                            if value > largest:
                                second, largest = largest, value
                            else:
                                second = value
                    lead = largest - second
                    sure = lead > always_above or (lead >= never_below and decide(logits))
                else:
                    sure = decide(logits)
                if sure:
                    return exit, "confident", stage_ms, logits
            if deadline_s is not None and ended + next_limits_s[exit] > deadline_s:
                return exit, "deadline", stage_ms, logits
        return last, "last_exit", stage_ms, logits

    return walk
