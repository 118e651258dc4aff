"""What a stage of a program takes: weights, memory for activations, and who computes it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeVar, final

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Mapping, Sequence

__all__ = ["Operator", "StageDelegation", "StageFootprint", "peak_bytes", "weigh"]

_Constant = TypeVar("_Constant", bound="Hashable")


@final
@dataclass(frozen=True, slots=True)
class StageDelegation:
    """Which operators of one stage a runtime's fast library takes.

    Attributes:
        delegated: Operator -> how many of them the library runs.
        left: Operator -> how many run in the runtime's plain kernels.
    """

    delegated: Mapping[str, int]
    left: Mapping[str, int]

    @property
    def share(self) -> float:
        """Of all operators, what part the library runs; 1 for a stage without any."""
        taken, left = sum(self.delegated.values()), sum(self.left.values())
        return taken / (taken + left) if taken + left else 1.0


@final
@dataclass(frozen=True, slots=True)
class StageFootprint:
    """What one stage of one program takes, read from the program itself.

    Attributes:
        weight_bytes: Of the constants in the file that the stage refers to.
        shared_bytes: What part of those another stage refers to as well.
        peak_activation_bytes: The most that its inputs, outputs and the values between its
            operators take at one time, in the order of the file; ``None`` where the system plans
            that on the device. A runtime adds padding, and what its kernels take for themselves.
        planned_bytes: What the program itself reserves outside of the library that runs its
            operators; ``None`` where the format reserves nothing.
        delegation: Which operators the runtime's fast library takes; ``None`` where that is decided
            on the device.
    """

    weight_bytes: int
    shared_bytes: int
    peak_activation_bytes: int | None = None
    planned_bytes: int | None = None
    delegation: StageDelegation | None = None


@final
class Operator(NamedTuple):
    """One step of a graph.

    Attributes:
        inputs: The values it reads, by number.
        outputs: The values it computes.
    """

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def peak_bytes(
    operators: Sequence[Operator], sizes_bytes: Mapping[int, int], held: Iterable[int]
) -> int:
    """The most that values of a graph take at one time.

    A value lives from the operator that computes it to the last one that reads it. No operator
    writes over what it reads.

    Args:
        operators: In the order in which they run.
        sizes_bytes: Of the values that count; leave constants out.
        held: Values that live all the time, such as the inputs and outputs of a stage, whose memory
            belongs to the caller.
    """
    kept = set(held) & sizes_bytes.keys()
    last_read = {
        value: place for place, operator in enumerate(operators) for value in operator.inputs
    }
    alive = set(kept)
    now_bytes = peak = sum(sizes_bytes[value] for value in alive)
    for place, operator in enumerate(operators):
        made = (set(operator.outputs) & sizes_bytes.keys()) - alive
        alive |= made
        now_bytes += sum(sizes_bytes[value] for value in made)
        peak = max(peak, now_bytes)
        # What nobody reads goes at once.
        done = {
            value
            for value in {*operator.inputs, *operator.outputs} & alive - kept
            if last_read.get(value, place) <= place
        }
        alive -= done
        now_bytes -= sum(sizes_bytes[value] for value in done)
    return peak


def weigh(
    used: Sequence[Iterable[_Constant]], sizes_bytes: Mapping[_Constant, int]
) -> list[tuple[int, int]]:
    """Weigh the constants of each stage.

    Args:
        used: Per stage, the constants it refers to.
        sizes_bytes: Of each constant.

    Returns:
        Per stage, the bytes of its constants, and of those that another stage refers to as well.
    """
    stages = [frozenset(constants) for constants in used]
    users = Counter(constant for constants in stages for constant in constants)
    return [
        (
            sum(sizes_bytes[constant] for constant in constants),
            sum(sizes_bytes[constant] for constant in constants if users[constant] > 1),
        )
        for constants in stages
    ]
