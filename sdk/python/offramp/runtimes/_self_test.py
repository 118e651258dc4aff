"""Whether a program answers here as it did where its bundle was made."""

from __future__ import annotations

import hashlib
import json
import platform
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Literal, final

import numpy as np

from offramp._cache import cache_folder
from offramp._files import write_atomically
from offramp.errors import SelfTestError
from offramp.policy import choose_exits

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from offramp.bundle import Bundle, Policy, ProgramEntry, Vectors
    from offramp.runtimes._base import Runtime

__all__ = ["SelfTest", "SelfTestResult", "logits_tolerance", "self_test", "self_test_bundle"]

SelfTest = Literal["first", "always", "never"]

# Of the largest recorded logit of the exit: what reordered sums may change, by precision.
_RELATIVE_TOLERANCE = {
    "float32": 1e-4,
    "float16": 1e-2,
    # A sum in another order may move an activation by a whole step, in any layer.
    "dynamic_int8": 2e-2,
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
_IMAGES = 16
_PROCESSOR_CHARACTERS = 4096


def logits_tolerance(entry: ProgramEntry, exit: int, recorded: NDArray[np.float32]) -> float:
    """How far logits may be from the recorded ones on another machine.

    1e-4 of the exit's largest recorded logit in float32, 1e-2 in float16 and where only weights are
    compressed, 2e-2 in dynamic int8, and four quantisation steps of the exit's logits in int8.

    Args:
        entry: The program.
        exit: The exit.
        recorded: ``(images, classes)`` float32, of that exit.
    """
    largest = float(np.abs(recorded).max())
    if entry.precision != "int8":
        return largest * _RELATIVE_TOLERANCE[entry.precision]
    step = entry.stages[exit].outputs[0].quantization
    return _INT8_STEPS * (largest / _STEPS if step is None else step.scale) * _SLACK


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
    images: int = _IMAGES,
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
    recorded = vectors.logits[entry.name][:, : len(chosen)]
    logits = np.empty_like(recorded)
    for number, image in enumerate(chosen):
        runtime.start(image)
        for exit in range(len(recorded)):
            logits[exit, number] = runtime.run(exit)
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
                f"exit {exit} differ by up to {found:.3g} over {len(chosen)} test images, at most "
                f"{allowed:.3g} is allowed, in {runtime.engine}; do not rely on this program on "
                "this machine, and try another runtime or program",
                program=entry.name,
                exit=exit,
                difference=found,
                tolerance=allowed,
            )
    return SelfTestResult(
        images=len(chosen),
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


def self_test_bundle(
    runtime: Runtime, bundle: Bundle, entry: ProgramEntry, *, engine: str, when: SelfTest
) -> SelfTestResult | None:
    """Run the self-test of a bundle's program if it is due, and remember that it passed.

    Args:
        runtime: The program, loaded.
        bundle: Where it is from.
        entry: Its entry.
        engine: The runtime's package and version.
        when: ``first`` tests once for each program, engine and processor; ``always``; ``never``.

    Returns:
        What was seen, or ``None`` if nothing was run.

    Raises:
        SelfTestError: As ``self_test``.
        ValueError: ``when`` is none of the three.
    """
    if when not in ("first", "always", "never"):
        raise ValueError(f"self_test is {when!r}, expected 'first', 'always' or 'never'")
    if when == "never":
        return None
    policies = [policy for policy in bundle.manifest.policies if policy.program == entry.name]
    memory = _memory(bundle, entry, policies, engine)
    if when == "first" and memory is not None and _remembers(*memory):
        return None
    result = self_test(runtime, entry, bundle.vectors(), policies)
    if memory is not None:
        _remember(*memory)
    return result


def _memory(
    bundle: Bundle, entry: ProgramEntry, policies: Sequence[Policy], engine: str
) -> tuple[Path, bytes] | None:
    """The file that says that this very test was passed, and its content."""
    folder = cache_folder()
    if folder is None:
        return None
    content = json.dumps(
        {
            "program": [file.sha256 for file in entry.files],
            "vectors": bundle.manifest.vectors.sha256,
            "policies": [repr(policy) for policy in policies],
            "engine": engine,
            "machine": platform.machine(),
            "processor": _processor(),
            "versions": [version("offramp"), np.__version__],
        },
        sort_keys=True,
    ).encode()
    return folder / "self-tests" / f"{hashlib.sha256(content).hexdigest()}.json", content


def _processor() -> str:
    """What the kernel says of the first processor, less what changes while it runs."""
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8", errors="replace") as file:
            # The kernel makes the text as it is read, and asks every further core its clock.
            text = file.read(_PROCESSOR_CHARACTERS)
    except OSError:
        return platform.processor()
    first = text.partition("\n\n")[0].splitlines()
    return "\n".join(line for line in first if "MHz" not in line and "bogomips" not in line.lower())


def _remembers(path: Path, content: bytes) -> bool:
    try:
        return path.read_bytes() == content
    except OSError:
        return False


def _remember(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)
    except OSError:
        # A full or read-only disk costs the next start the same test again, nothing more.
        return
