"""``python -m offramp.testing BUNDLE``: the contract of a runtime, on this machine."""

# ruff: noqa: TC003 - typer reads the annotations at run time
from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from offramp.bundle import Bundle
from offramp.errors import OfframpError
from offramp.runtimes import open_runtime
from offramp.testing import BundleContract, ContractResult, run_contract

__all__ = ["main"]


def main(
    bundle: Annotated[Path, typer.Argument(help="A bundle: a folder, or a zip.")],
    program: Annotated[
        str | None,
        typer.Option(
            help="RUNTIME/PRECISION; without it litert/int8 if it has a policy, else the first one."
        ),
    ] = None,
    runtime: Annotated[
        str | None,
        typer.Option(help="What is to run it; without it the first that is installed."),
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads the kernels may use.")] = 1,
) -> None:
    """Test on this machine whether a runtime keeps its promises, with a bundle's own images."""

    def report(result: ContractResult) -> None:
        print(f"{'FAILED' if result.failure else 'passed'} {result.test}")
        if result.failure:
            print(result.failure)

    try:
        opened = Bundle.open(bundle)
        with open_runtime(opened, program, runtime=runtime, threads=threads) as loaded:
            print(f"{opened.program(program).name} in {loaded.engine}")
        contract = BundleContract(opened, program, runtime=runtime, threads=threads)
    except (OfframpError, OSError) as error:
        sys.stderr.write(f"offramp.testing: {error}\n")
        raise typer.Exit(2) from None
    results = run_contract(contract, report)
    failed = sum(result.failure is not None for result in results)
    print(f"{len(results) - failed} passed, {failed} failed")
    if failed:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
