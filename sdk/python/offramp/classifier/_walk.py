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

from offramp.errors import BundleError, ProgramError
from offramp.policy import FEW_CLASSES, make_decider, top_class

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from offramp.bundle import Policy
    from offramp.classifier._limits import StageLimits
    from offramp.classifier._prediction import Reason
    from offramp.policy import Decider, Logits
    from offramp.runtimes import BoundProgram, Runtime

    _Turn: TypeAlias = tuple[
        Callable[[], int | None],
        Callable[[], Logits],
        float,
        float,
        Callable[[Logits], bool] | None,
    ]
    Walk: TypeAlias = Callable[
        [NDArray[np.uint8], float | None], tuple[int, Reason, list[float], Logits]
    ]

__all__ = ["LAST", "ExitRule", "Walker", "check_stages"]

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


def check_stages(stages: int, policies: Sequence[Policy], limits: StageLimits | None) -> None:
    """Refuse policies and limits of another program.

    Raises:
        BundleError: One is for another number of stages.
    """
    for name, given in (
        *(("policy", policy.enabled) for policy in policies),
        ("limit", limits and limits.ms),
    ):
        if given and len(given) != stages:
            raise BundleError(f"the {name} is for {len(given)} stages, the program has {stages}")


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
            for number, stage in enumerate((*before[exit + 1 :], last), exit + 1):
                status = stage.run()
                if status:
                    raise _failed(number, status)
            logits = last.logits()
        index = top_class(logits)
        return -1 if index is None else index

    def close(self) -> None:
        """Free the program."""
        self._runtime.close()


def _failed(stage: int, status: int) -> ProgramError:
    return ProgramError(f"the engine could not run stage {stage}: status {status}")


def _make_walk(
    program: BoundProgram, rule: ExitRule, few: bool, limits_ms: Sequence[float]
) -> Walk:
    start, stages = program
    last = len(stages) - 1
    # All that a turn of the loop needs, in plain tuples, which are taken apart in one step.
    hurried: list[_Turn] = []
    patient: list[_Turn] = []
    for exit, (stage, decider) in enumerate(zip(stages, rule.deciders, strict=True)):
        read = stage.logits_list if few else stage.logits  # few floats are quicker than an array
        below, above, decide = (0.0, 0.0, None) if decider is None else decider
        hurried.append((stage.run, read, below, above, decide))
        # Where nobody asks an exit, and it need not answer in a hurry, there is nothing to read.
        unread = decider is None and exit < last
        patient.append((stage.run, list if unread else read, below, above, decide))
    by_lead, lowest = rule.by_lead, -math.inf
    next_limits_s = (*(1e-3 * limit_ms for limit_ms in limits_ms[1:]), -math.inf)

    def walk(
        image: NDArray[np.uint8], deadline_s: float | None
    ) -> tuple[int, Reason, list[float], Logits]:
        start(image)
        stage_ms: list[float] = []
        for exit, (run, read, never_below, always_above, decide) in enumerate(
            patient if deadline_s is None else hurried
        ):
            began = perf_counter()
            status = run()
            if status:
                raise _failed(exit, status)
            logits = read()
            ended = perf_counter()
            stage_ms.append(1e3 * (ended - began))
            if decide is not None:
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
