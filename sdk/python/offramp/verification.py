"""Whether a bundle still does what it says: its programs here, its certificates on new images.

Hashes say that the files are the same. ``verify`` says that this device, with the runtime it has,
makes the same of them; ``verify_certificates`` says whether the promises still hold on images that
had no part in them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np

from offramp.calibration import CertificateCheck, recheck
from offramp.errors import MissingExtraError, ProgramError
from offramp.policy import choose_exits
from offramp.profiling import collect_logits
from offramp.runtimes import choose_runtime, logits_tolerance, open_runtime, try_isolated

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from offramp.bundle import Bundle, Policy, ProgramEntry, Vectors

__all__ = [
    "NotRun",
    "PolicyCheck",
    "PolicyRecheck",
    "ProgramCheck",
    "VerificationReport",
    "verify",
    "verify_certificates",
]

_FLOAT = "litert/float32"


@final
@dataclass(frozen=True, slots=True)
class PolicyCheck:
    """One policy on the test images.

    Attributes:
        policy: Its name.
        exits_differing: Images that leave at another exit than was recorded.
    """

    policy: str
    exits_differing: int


@final
@dataclass(frozen=True, slots=True)
class ProgramCheck:
    """One program on the test images.

    Attributes:
        program: ``runtime/precision``.
        images: How many test images it ran.
        differences: Per exit, the largest difference from the recorded logits.
        tolerances: Per exit, the largest difference allowed.
        labels_differing: Answers, over all exits and images, that name another class.
        policies: One entry for each policy of the program.
        error: Why the program could not be run although it should; then the rest is empty.
    """

    program: str
    images: int = 0
    differences: tuple[float, ...] = ()
    tolerances: tuple[float, ...] = ()
    labels_differing: int = 0
    policies: tuple[PolicyCheck, ...] = ()
    error: str | None = None

    @property
    def ok(self) -> bool:
        """Whether logits are within tolerance and every answer and exit is the recorded one."""
        within = all(
            difference <= tolerance
            for difference, tolerance in zip(self.differences, self.tolerances, strict=True)
        )
        return (
            self.error is None
            and self.images > 0
            and within
            and self.labels_differing == 0
            and not any(check.exits_differing for check in self.policies)
        )


@final
@dataclass(frozen=True, slots=True)
class NotRun:
    """A program that cannot be run here, so that nothing is known about it.

    Attributes:
        program: ``runtime/precision``.
        reason: Why not.
    """

    program: str
    reason: str


@final
@dataclass(frozen=True, slots=True)
class VerificationReport:
    """What was run and what was not.

    Attributes:
        programs: Those that were run.
        not_run: Those that cannot be run here.
    """

    programs: tuple[ProgramCheck, ...]
    not_run: tuple[NotRun, ...]

    @property
    def ok(self) -> bool:
        """Whether something was run and all of it agrees; says nothing about ``not_run``."""
        return bool(self.programs) and all(check.ok for check in self.programs)


@final
@dataclass(frozen=True, slots=True)
class PolicyRecheck:
    """The certificates of one policy on new images.

    Attributes:
        program: ``runtime/precision``.
        policy: Its name.
        checks: One for each certificate.
    """

    program: str
    policy: str
    checks: tuple[CertificateCheck, ...]

    @property
    def broken(self) -> bool:
        """Whether the images refute a certificate."""
        return any(check.verdict == "broken" for check in self.checks)

    @property
    def confirmed(self) -> bool:
        """Whether the images certify all of it again."""
        return all(check.verdict == "confirmed" for check in self.checks)


def verify_certificates(
    bundle: Bundle,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64] | None = None,
    *,
    programs: Sequence[str] | None = None,
    threads: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[PolicyRecheck, ...]:
    """Run new images through the programs and check every certificate of every policy on them.

    Args:
        bundle: An opened bundle.
        images: ``(images, height, width, 3)`` uint8, none of them calibrated on.
        labels: ``(images,)``; without them only what needs none is checked.
        programs: Names of those to check; ``None`` takes all LiteRT programs with a policy.
        threads: How many threads the kernels may use.
        progress: Called with the number of images done, over all programs, and the number in all.

    Raises:
        BundleError: A program named is not in the bundle.
        ProgramError: A program cannot be run here.
        ShapeError: There is no image, or one the programs do not take.
    """
    policies = bundle.manifest.policies
    if programs is None:
        known = {entry.name for entry in bundle.manifest.programs if entry.runtime == "litert"}
        names = list(dict.fromkeys(p.program for p in policies if p.program in known))
    else:
        names = [bundle.program(name).name for name in programs]
    runs = list(names)
    asked = [policy for policy in policies if policy.program in names]
    beside_float = any(c.reference == "float" for policy in asked for c in policy.certificates)
    has_float = any(entry.name == _FLOAT for entry in bundle.manifest.programs)
    if beside_float and has_float and _FLOAT not in runs:
        runs.append(_FLOAT)
    logits = {}
    for place, name in enumerate(runs):

        def report(done: int, _: int, done_before: int = place * len(images)) -> None:
            if progress is not None:
                progress(done_before + done, len(runs) * len(images))

        with open_runtime(bundle, name, threads=threads) as runtime:
            logits[name] = collect_logits(runtime, images, report)
    reference = logits[_FLOAT][-1] if _FLOAT in logits else None
    return tuple(
        PolicyRecheck(
            policy.program,
            policy.name,
            recheck(policy, logits[policy.program], labels, reference_logits=reference),
        )
        for policy in asked
    )


def verify(
    bundle: Bundle,
    programs: Sequence[str] | None = None,
    *,
    threads: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> VerificationReport:
    """Run the test images through every program that the SDK can run, and compare.

    Logits may differ by 1e-4 of the exit's largest recorded logit in float32 (1e-2 in float16) and
    by four quantisation steps of the exit's logits in int8. Answers, and the exits taken under each
    policy, may not differ at all.

    Args:
        bundle: An opened bundle; opening it has compared all hashes.
        programs: Names of those to check; ``None`` takes all.
        threads: How many threads the kernels may use.
        progress: Called with the number of images done, over all programs, and the number in all.

    Raises:
        BundleError: A program named is not in the bundle, or the vectors cannot be read.
    """
    known = bundle.manifest.programs
    entries = known if programs is None else tuple(bundle.program(name) for name in programs)
    vectors = bundle.vectors()
    runnable, not_run = [], []
    for entry in entries:
        try:
            choose_runtime(entry)
        except (MissingExtraError, ProgramError) as error:
            not_run.append(NotRun(entry.name, str(error)))
        else:
            runnable.append(entry)
    total = len(runnable) * len(vectors.images)
    checks = []
    for place, entry in enumerate(runnable):
        done_before = place * len(vectors.images)

        def report(done: int, _: int, done_before: int = done_before) -> None:
            if progress is not None:
                progress(done_before + done, total)

        checks.append(_check(bundle, entry, vectors, threads, report))
    return VerificationReport(programs=tuple(checks), not_run=tuple(not_run))


def _check(
    bundle: Bundle,
    entry: ProgramEntry,
    vectors: Vectors,
    threads: int,
    report: Callable[[int, int], None],
) -> ProgramCheck:
    (file,) = entry.files
    try:
        # A bundle is verified because it is not trusted yet.
        try_isolated(bundle, entry, choose_runtime(entry), bundle.read(file), threads)
        with open_runtime(bundle, entry.name, threads=threads, self_test="never") as runtime:
            logits = collect_logits(runtime, vectors.images, report)
    except ProgramError as error:
        return ProgramCheck(entry.name, error=str(error))
    recorded = vectors.logits[entry.name]
    difference = np.abs(logits.astype(np.float64) - recorded)
    # A logit that is not a number is as far away as can be.
    difference = np.where(np.isfinite(difference), difference, np.inf)
    return ProgramCheck(
        program=entry.name,
        images=len(vectors.images),
        differences=tuple(difference.max(axis=(1, 2)).tolist()),
        tolerances=tuple(
            logits_tolerance(entry, exit, recorded[exit]) for exit in range(len(recorded))
        ),
        labels_differing=int((logits.argmax(axis=-1) != recorded.argmax(axis=-1)).sum()),
        policies=tuple(
            PolicyCheck(policy.name, _exits_differing(policy, logits, recorded))
            for policy in bundle.manifest.policies
            if policy.program == entry.name
        ),
    )


def _exits_differing(
    policy: Policy, logits: NDArray[np.float32], recorded: NDArray[np.float32]
) -> int:
    expected = np.array(policy.vector_exits or choose_exits(policy, recorded))
    return int((choose_exits(policy, logits) != expected).sum())
