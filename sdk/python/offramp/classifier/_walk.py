"""The inner loop: stage after stage, until an exit answers.

The lines here run between two stages, with caches that the kernels have just filled with other
things: every call and every object counts, so whatever can be known before an image comes lies
ready in the variables of one function.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, final

import numpy as np

from offramp.errors import BundleError, ProgramError
from offramp.policy import FEW_CLASSES, make_decider, top_class

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from offramp.bundle import Bundle, Policy
    from offramp.classifier._limits import StageLimits
    from offramp.classifier._prediction import Reason
    from offramp.policy import Decider, Logits
    from offramp.runtimes import BoundProgram, Runtime

    _Turn: TypeAlias = tuple[
        int,
        Callable[[], int | None],
        Callable[[], Logits],
        Callable[[], Logits] | None,
        float,
        float,
        Callable[[Logits], bool] | None,
    ]
    Answer: TypeAlias = tuple[int, Reason, list[float], Logits]

__all__ = ["LAST", "ExitRule", "Walk", "Walker", "check_stages", "choose_policy"]

LAST = "last"
"""In place of a policy's name: every image runs to the last exit."""

# A float32 logit is rounded by less than a ten-thousandth of the step between two int8 logits.
_ROUNDING_STEPS = 1e-3


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


def choose_policy(bundle: Bundle, program: str, policy: str | Policy | None) -> Policy | None:
    """The policy that ``DynamicClassifier.load`` is asked for; ``None`` runs to the last exit.

    Raises:
        BundleError: There is no such policy, or it is another program's.
    """
    if policy == LAST:
        return None
    if policy is None or isinstance(policy, str):
        return bundle.policy(program, policy)
    if policy.program != program:
        raise BundleError(
            f"the policy was calibrated on {policy.program}, the program is {program}; choose that "
            f"program, or calibrate on this one"
        )
    return policy


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
class Walk(NamedTuple):
    """The stages of one copy of a program, run for one image until an exit answers by one rule.

    Both functions take the image, ``(height, width, 3)`` uint8 as the program takes it, and when
    the prediction began, and give the exit that answered, why, the times of the clock, and the
    logits. All times are seconds on the clock of ``time.perf_counter``: when it began, when the
    image was in its place, and when each stage that ran had ended.

    Attributes:
        patient: However long it takes.
        hurried: With a deadline as third argument.
    """

    patient: Callable[[NDArray[np.uint8], float], Answer]
    hurried: Callable[[NDArray[np.uint8], float, float], Answer]


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
        """Per rule, how it runs the stages of one image until an exit answers."""

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
    hurried_turns = []
    patient_turns: list[_Turn] = []
    by_lead, lowest = rule.by_lead, -math.inf
    for exit, (stage, decider) in enumerate(zip(stages, rule.deciders, strict=True)):
        read = stage.logits_list if few else stage.logits  # few floats are quicker than an array
        below, above, decide = (0.0, 0.0, None) if decider is None else decider
        glance, full = read, None
        if by_lead and decide is not None and stage.steps is not None:
            # The bounds in steps, and wider by more than what logits are rounded by.
            glance, full = stage.steps, read
            below, above = (
                below / stage.step - _ROUNDING_STEPS,
                above / stage.step + _ROUNDING_STEPS,
            )
        hurried_turns.append((exit, stage.run, read, decide))
        # Where nobody asks an exit, and it need not answer in a hurry, there is nothing to read.
        unread = decider is None and exit < last
        glance = list if unread else glance
        patient_turns.append((exit, stage.run, glance, full, below, above, decide))
    next_limits_s = (*(1e-3 * limit_ms for limit_ms in limits_ms[1:]), -math.inf)

    def patient(image: NDArray[np.uint8], began_s: float) -> Answer:
        start(image)
        clock_s = [began_s, perf_counter()]
        for exit, run, glance, read, never_below, always_above, decide in patient_turns:
            status = run()
            if status:
                raise _failed(exit, status)
            logits = glance()
            clock_s.append(perf_counter())
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
                    if lead >= never_below:
                        if read is not None:
                            logits = read()
                        if lead > always_above or decide(logits):
                            return exit, "confident", clock_s, logits
                elif decide(logits):
                    return exit, "confident", clock_s, logits
        return last, "last_exit", clock_s, logits

    def hurried(image: NDArray[np.uint8], began_s: float, deadline_s: float) -> Answer:
        start(image)
        clock_s = [began_s, perf_counter()]
        for exit, run, read, decide in hurried_turns:
            status = run()
            if status:
                raise _failed(exit, status)
            logits = read()
            ended_s = perf_counter()
            clock_s.append(ended_s)
            if decide is not None and decide(logits):
                return exit, "confident", clock_s, logits
            if ended_s + next_limits_s[exit] > deadline_s:
                return exit, "deadline", clock_s, logits
        return last, "last_exit", clock_s, logits

    return Walk(patient, hurried)
