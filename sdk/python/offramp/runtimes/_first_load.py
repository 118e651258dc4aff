"""What is done with a program before it is handed out: much the first time, later little."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, final, get_args

from offramp.runtimes._passed import Passed
from offramp.runtimes._self_test import MOST_IMAGES, compare_logits, self_test

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from offramp.bundle import Bundle, ProgramEntry
    from offramp.runtimes._base import Runtime
    from offramp.runtimes._choice import Choice

__all__ = ["FirstLoad", "SelfTest", "try_isolated"]

SelfTest = Literal["first", "always", "in_process", "never"]


def try_isolated(
    bundle: Bundle, entry: ProgramEntry, choice: Choice, program: bytes, threads: int
) -> NDArray[np.float32]:
    """Run the first test images through a program in a process of its own.

    A LiteRT file is looked through first, in Python: most broken ones end there.

    Args:
        bundle: Where it is from.
        entry: What the manifest says of it.
        choice: What runs it.
        program: The file's content, whose SHA-256 has been checked.
        threads: How many threads the kernels may use.

    Returns:
        ``(exits, images, classes)`` float32 logits.

    Raises:
        ProgramError: It is broken, was refused, died, or hung.
        MissingExtraError: No runtime for it is installed.
    """
    # Not on the way of a program that is known here.
    from offramp.runtimes._isolated import limit_s, run_isolated

    _look_through(program, entry)
    images = bundle.vectors().images[:MOST_IMAGES]
    work = sum(stage.multiply_adds for stage in bundle.manifest.stages)
    return run_isolated(
        program,
        entry,
        images,
        runtime=choice.name,
        threads=threads,
        limit_s=limit_s(program, len(images), work),
    )


def _look_through(program: bytes, entry: ProgramEntry) -> None:
    from offramp.runtimes._tflite_verify import verify_flatbuffer

    if entry.runtime == "litert":
        verify_flatbuffer(program)


@final
class FirstLoad:
    """The tests of one program, as far as they are due: before it is opened here, and after.

    Args:
        bundle: Where the program is from.
        entry: Its entry.
        choice: What is to run it.
        when: ``first`` tests once for each program, engine and processor, ``always`` at every
            load; what is new here runs in a process of its own before. ``in_process`` is ``first``
            without that process. ``never`` tests nothing.

    Raises:
        ValueError: ``when`` is none of the four.
    """

    def __init__(
        self, bundle: Bundle, entry: ProgramEntry, choice: Choice, *, when: SelfTest
    ) -> None:
        if when not in get_args(SelfTest):
            raise ValueError(
                f"self_test is {when!r}, expected 'first', 'always', 'in_process' or 'never'"
            )
        self._bundle, self._entry, self._choice = bundle, entry, choice
        self._engine = str(choice.find())
        self._policies = [
            policy for policy in bundle.manifest.policies if policy.program == entry.name
        ]
        program = {"program": [file.sha256 for file in entry.files], "engine": self._engine}
        self._survived = Passed({"test": "survived", **program})
        self._answered = Passed(
            {
                "test": "answered",
                **program,
                "vectors": bundle.manifest.vectors.sha256,
                "policies": [repr(policy) for policy in self._policies],
            }
        )
        self._is_due = when == "always" or (when != "never" and not self._answered.is_remembered())
        self._is_new = self._is_due and not self._survived.is_remembered()
        self._isolates = self._is_new and when != "in_process"

    def before(self, program: bytes, threads: int) -> None:
        """Do what has to be done before an engine of this process sees the program.

        Raises:
            ProgramError: The program is broken, was refused, or ended the process it ran in.
            SelfTestError: It does not answer here as it did where the bundle was made.
            MissingExtraError: No runtime for it is installed.
        """
        if self._isolates:
            logits = try_isolated(self._bundle, self._entry, self._choice, program, threads)
            compare_logits(
                logits, self._entry, self._bundle.vectors(), self._policies, engine=self._engine
            )
        elif self._is_new:
            _look_through(program, self._entry)

    def after(self, runtime: Runtime) -> None:
        """Test the program as it is opened, if that has not been done, and remember that it passed.

        Raises:
            SelfTestError: It does not answer here as it did where the bundle was made.
        """
        if not self._is_due:
            return
        if not self._isolates:
            self_test(runtime, self._entry, self._bundle.vectors(), self._policies)
        self._survived.remember()
        self._answered.remember()
