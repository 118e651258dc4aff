"""``offramp build-shim``."""

# ruff: noqa: TC001 - typer reads the annotations at run time
from __future__ import annotations

from typing import Annotated

import typer

from offramp.cli import console
from offramp.cli._options import JsonOption

__all__ = ["build_shim"]


def build_shim(
    compiler: Annotated[
        str | None,
        typer.Option(help="A C++20 compiler; without it CXX, g++, clang++ or c++."),
    ] = None,
    for_all_users: Annotated[
        bool,
        typer.Option(
            "--for-all-users", help="Keep it in the Python environment, not in the user's cache."
        ),
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Build it even if it is there.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Build the library that runs ExecuTorch programs without torch.

    Done once for each machine and version of executorch, in some ten seconds. Without it they run
    in ExecuTorch's Python package, which loads torch.
    """
    from offramp.runtimes import build_shim as build
    from offramp.runtimes import installed_runtimes

    with console.progress("Building", total=1) as progress:
        path = build(compiler=compiler, for_all_users=for_all_users, force=force)
        progress(1, 1)
    engine = installed_runtimes()["executorch-shim"]
    console.emit(
        as_json, {"path": str(path), "runtime": engine}, lambda: print(f"{engine}: {path}")
    )
