"""The inner loop: stage after stage, until an exit answers.

The lines here run between two stages, with caches that the kernels have just filled with other
things: every call and every object counts, so there is nothing here that could be elsewhere.
"""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING, NamedTuple, final

from offramp.policy import make_decider, top_class

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from offramp.bundle import Policy
    from offramp.classifier._prediction import Reason
    from offramp.runtimes import Runtime

__all__ = ["ExitRule", "finish", "walk"]


@final
class ExitRule(NamedTuple):
    """A policy with all that can be known before the first image.

    Attributes:
        policy: The policy; ``None`` runs to the last exit.
        asks: Per exit, whether its logits are wanted; the last one's are.
        deciders: Per exit, whether it answers, from its logits; ``None`` for one that is not asked.
    """

    policy: Policy | None
    asks: tuple[bool, ...]
    deciders: tuple[Callable[[NDArray[np.float32]], bool] | None, ...]

    @classmethod
    def of(cls, policy: Policy | None, stages: int, classes: int) -> ExitRule:
        """The rule of a policy for a program of so many stages and classes."""
        if policy is None:
            return cls(None, (*(False,) * (stages - 1), True), (None,) * stages)
        deciders = tuple(make_decider(policy, exit, classes) for exit in range(stages))
        return cls(policy, (*policy.enabled[:-1], True), deciders)


def walk(
    runtime: Runtime,
    image: NDArray[np.uint8],
    asks: Sequence[bool],
    deciders: Sequence[Callable[[NDArray[np.float32]], bool] | None],
    limits_ms: Sequence[float],
    deadline_s: float | None,
) -> tuple[int, Reason, list[float], NDArray[np.float32]]:
    """Run the stages of one image until an exit answers.

    Args:
        runtime: The program; nobody else may use it meanwhile.
        image: ``(height, width, 3)`` uint8, as the program takes it.
        asks: Per exit, whether its logits are wanted; the last one's are. With a deadline any exit
            may have to answer, so all are.
        deciders: Per exit, whether it answers, from its logits; ``None`` for one that is not asked.
            The last one is never looked at.
        limits_ms: Per stage, the time it is sure to take no longer than, in milliseconds; looked
            at only with a deadline.
        deadline_s: When to answer, on the clock of ``time.perf_counter``, in seconds.

    Returns:
        The exit that answered, why, the time of each stage that ran in milliseconds, and the
        ``(classes,)`` float32 logits of that exit.
    """
    stage_ms: list[float] = []
    runtime.start(image)
    last = len(asks) - 1
    exit = 0
    while True:
        began = perf_counter()
        if asks[exit]:
            logits = runtime.run(exit)
        else:
            runtime.skip(exit)
        ended = perf_counter()
        stage_ms.append(1e3 * (ended - began))
        if exit == last:
            return exit, "last_exit", stage_ms, logits
        decide = deciders[exit]
        if decide is not None and decide(logits):
            return exit, "confident", stage_ms, logits
        exit += 1
        if deadline_s is not None and ended + 1e-3 * limits_ms[exit] > deadline_s:
            return exit - 1, "deadline", stage_ms, logits


def finish(runtime: Runtime, exit: int, logits: NDArray[np.float32]) -> int:
    """Run the stages that an answer has left out, to learn what the last exit would have said.

    Args:
        runtime: The program, as ``walk`` left it.
        exit: The exit that answered.
        logits: Its logits.

    Returns:
        The class the last exit gives; -1, which is none, if its logits are not finite.
    """
    last = runtime.num_stages - 1
    if exit < last:
        for stage in range(exit + 1, last):
            runtime.skip(stage)
        logits = runtime.run(last)
    index = top_class(logits)
    return -1 if index is None else index
