"""Whether a program answers here as it did where its bundle was made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np

from offramp.errors import ProgramError, SelfTestError
from offramp.policy import choose_exits

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from offramp.bundle import Policy, ProgramEntry, Vectors
    from offramp.runtimes._base import Runtime

__all__ = [
    "MOST_IMAGES",
    "SelfTestResult",
    "compare_logits",
    "logits_tolerance",
    "run_images",
    "self_test",
]

MOST_IMAGES = 16
"""How many of a bundle's test images a self-test runs."""

# Of the largest recorded logit of the exit: what reordered sums may change, by precision.
_RELATIVE_TOLERANCE = {
    "float32": 1e-4,
    "float16": 1e-2,
    # A sum in another order may move an activation by a whole step, in any layer.
    "dynamic_int8": 2e-2,
    # Sums of integers have no order; a step, which is 3e-5, may be rounded otherwise in any layer.
    # LiteRT's reference kernels were seen 1.5e-4 from its plain ones behind twenty layers, and not
    # at all behind six; this leaves room for networks several times as deep.
    "int16x8": 1e-3,
    # Stored in fewer bits, computed in float16.
    "weight_int8": 1e-2,
    "palette8": 1e-2,
    "palette6": 1e-2,
    "palette4": 1e-2,
}
# Of int8 logits, in quantisation steps: another runtime's kernels round otherwise in every layer.
# The classic interpreter has been seen two steps away; kernels that are wrong, a hundred.
_INT8_STEPS = 4
# Of an int8 program that hands out float32: a step is one of the 127 up to the largest logit.
_STEPS = 127.0
# One quantisation step is a float32 in the program and decimal digits in the manifest.
_SLACK = 1.0 + 1e-5


def logits_tolerance(entry: ProgramEntry, exit: int, recorded: NDArray[np.float32]) -> float:
    """How far logits may be from the recorded ones on another machine.

    1e-4 of the exit's largest recorded logit in float32, 1e-3 in int16x8, 1e-2 in float16 and where
    only weights are compressed, 2e-2 in dynamic int8, and four quantisation steps of the exit's
    logits in int8. Where stages differ, the largest of those that lead to the exit.

    Args:
        entry: The program.
        exit: The exit.
        recorded: ``(images, classes)`` float32, of that exit.
    """
    largest = float(np.abs(recorded).max())
    step, tensor = largest / _STEPS, entry.stages[exit].outputs[0]
    if tensor.dtype == "int8" and tensor.quantization is not None:
        step = tensor.quantization.scale
    return max(
        _INT8_STEPS * step * _SLACK
        if precision == "int8"
        else largest * _RELATIVE_TOLERANCE[precision]
        for precision in map(entry.precision_of, range(exit + 1))
    )


@final
@dataclass(frozen=True, slots=True)
class SelfTestResult:
    """What a program that passed was seen to do.

    Attributes:
        images: How many test images it ran.
        differences: Per exit, the largest difference from the recorded logits.
        tolerances: Per exit, the largest difference allowed.
        exits_differing: Policy name -> images that leave at another exit than was recorded. Their
            logits are within tolerance, so they stand that close to a threshold.
    """

    images: int
    differences: tuple[float, ...]
    tolerances: tuple[float, ...]
    exits_differing: dict[str, int]


def self_test(
    runtime: Runtime,
    entry: ProgramEntry,
    vectors: Vectors,
    policies: Sequence[Policy] = (),
    *,
    images: int = MOST_IMAGES,
) -> SelfTestResult:
    """Run test images through every stage and compare with what was recorded.

    Args:
        runtime: The program, loaded.
        entry: What the manifest says of it.
        vectors: The bundle's.
        policies: Of this program.
        images: How many of the vectors to run at most.

    Raises:
        SelfTestError: An exit's logits are further from the recorded ones than the tolerance, or
            the recorded logits lead to another exit than was recorded.
    """
    chosen = vectors.images[:images]
    return compare_logits(
        run_images(runtime, chosen), entry, vectors, policies, engine=runtime.engine
    )


def run_images(runtime: Runtime, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Run images through every stage.

    Args:
        runtime: The program, loaded.
        images: ``(images, height, width, 3)`` uint8.

    Returns:
        ``(exits, images, classes)`` float32 logits.
    """
    exits = range(runtime.num_stages)
    logits = []
    for image in images:
        runtime.start(image)
        logits.append([runtime.run(exit) for exit in exits])
    return np.array(logits, np.float32).swapaxes(0, 1)


def compare_logits(
    logits: NDArray[np.float32],
    entry: ProgramEntry,
    vectors: Vectors,
    policies: Sequence[Policy],
    *,
    engine: str,
) -> SelfTestResult:
    """Compare what a program answered here to the first test images with what was recorded.

    Args:
        logits: ``(exits, images, classes)`` float32.
        entry: What the manifest says of the program.
        vectors: The bundle's.
        policies: Of this program.
        engine: What ran it.

    Raises:
        SelfTestError: As ``self_test``.
    """
    recorded = vectors.logits[entry.name][:, : logits.shape[1]]
    if logits.shape != recorded.shape:
        raise ProgramError(
            f"{entry.name} gave logits of shape {logits.shape}, expected {recorded.shape}"
        )
    difference = np.abs(logits.astype(np.float64) - recorded)
    # A logit that is not a number is as far away as can be.
    difference = np.where(np.isfinite(difference), difference, np.inf)
    differences = tuple(difference.max(axis=(1, 2)).tolist())
    tolerances = tuple(
        # Of all vectors, so that it does not depend on how many are run.
        logits_tolerance(entry, exit, vectors.logits[entry.name][exit])
        for exit in range(len(recorded))
    )
    for exit, (found, allowed) in enumerate(zip(differences, tolerances, strict=True)):
        if found > allowed:
            raise SelfTestError(
                f"{entry.name} does not answer here as it did where the bundle was made: logits of "
                f"exit {exit} differ by up to {found:.3g} over {logits.shape[1]} test images, at "
                f"most {allowed:.3g} is allowed, in {engine}; do not rely on this program on this "
                "machine, and try another runtime or program",
                program=entry.name,
                exit=exit,
                difference=found,
                tolerance=allowed,
            )
    return SelfTestResult(
        images=logits.shape[1],
        differences=differences,
        tolerances=tolerances,
        exits_differing={
            policy.name: _exits_differing(entry, policy, logits, recorded) for policy in policies
        },
    )


def _exits_differing(
    entry: ProgramEntry,
    policy: Policy,
    logits: NDArray[np.float32],
    recorded: NDArray[np.float32],
) -> int:
    expected = choose_exits(policy, recorded)
    listed = np.array(policy.vector_exits[: len(expected)])
    # The same logits must lead to the same exit on any machine: here nothing is rounded otherwise.
    if len(listed) and (wrong := np.flatnonzero(listed != expected)).size:
        image = int(wrong[0])
        raise SelfTestError(
            f"policy {policy.name!r} of {entry.name} lets test image {image} leave at exit "
            f"{expected[image]} here, and at exit {listed[image]} where the bundle was made, by "
            "the same recorded logits; calibrate anew, or copy the bundle anew",
            program=entry.name,
            exit=int(expected[image]),
            difference=0.0,
            tolerance=0.0,
        )
    return int((choose_exits(policy, logits) != expected).sum())
