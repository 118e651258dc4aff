"""The contract on a bundle's own program, images and recorded logits."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from offramp.runtimes import logits_tolerance, open_runtime
from offramp.testing._contract import RuntimeCase, RuntimeContract

if TYPE_CHECKING:
    from collections.abc import Callable

    from offramp.bundle import Bundle
    from offramp.runtimes import Runtime

__all__ = ["BundleContract", "ContractResult", "run_contract"]


@final
class BundleContract(RuntimeContract):
    """The contract of a runtime, on a program of a bundle.

    What is right are the logits that the bundle recorded, within the tolerance of its precision.

    Args:
        bundle: An opened bundle, whose test images are not all answered alike.
        program: ``runtime/precision``; ``None`` as in ``Bundle.program``.
        runtime: As for ``open_runtime``.
        threads: How many threads the kernels may use.
    """

    def __init__(
        self,
        bundle: Bundle,
        program: str | None = None,
        *,
        runtime: str | None = None,
        threads: int = 1,
    ) -> None:
        self._bundle = bundle
        self._entry = bundle.program(program)
        self._runtime = runtime
        self._threads = threads
        self._vectors = bundle.vectors()

    def case(self) -> RuntimeCase:
        """The program, and what the bundle says it answers."""
        recorded = self._vectors.logits[self._entry.name]
        return RuntimeCase(
            self._open,
            self._vectors.images,
            recorded,
            max(
                logits_tolerance(self._entry, exit, recorded[exit]) for exit in range(len(recorded))
            ),
        )

    def _open(self) -> Runtime:
        return open_runtime(
            self._bundle,
            self._entry.name,
            threads=self._threads,
            runtime=self._runtime,
            self_test="never",
        )


@final
@dataclass(frozen=True, slots=True)
class ContractResult:
    """One promise, kept or not.

    Attributes:
        test: The name of the test.
        failure: The traceback, or ``None`` if the promise was kept.
    """

    test: str
    failure: str | None


def run_contract(
    contract: RuntimeContract, progress: Callable[[ContractResult], None] | None = None
) -> tuple[ContractResult, ...]:
    """Run every test of a contract without pytest, as on a board that has none.

    Args:
        contract: With its ``case``.
        progress: Called after each test.

    Returns:
        One entry per test, in alphabetical order.
    """
    results = []
    for name in sorted(name for name in dir(contract) if name.startswith("test_")):
        failure = None
        try:
            getattr(contract, name)()
        except Exception:
            failure = traceback.format_exc()
        results.append(ContractResult(name, failure))
        if progress is not None:
            progress(results[-1])
    return tuple(results)
