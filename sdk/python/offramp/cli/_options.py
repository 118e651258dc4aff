"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "BundleArgument",
    "DataArgument",
    "JsonOption",
    "ProgramOption",
    "ProgramsOption",
    "ThreadsOption",
    "WorkersOption",
]

BundleArgument = Annotated[
    Path, typer.Argument(metavar="BUNDLE", help="A bundle: a folder, or a zip.", show_default=False)
]
DataArgument = Annotated[
    Path,
    typer.Argument(
        metavar="DATA_FOLDER",
        help="Images, in one sub-folder per class named after its label.",
        show_default=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
ProgramOption = Annotated[
    str | None,
    typer.Option(
        "--program",
        metavar="RUNTIME/PRECISION",
        help="Which program; without it litert/int8 if it has a policy, else the first one.",
        show_default=False,
    ),
]
ProgramsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--program",
        metavar="RUNTIME/PRECISION",
        help="Which program; may be given several times. Without it all LiteRT programs.",
        show_default=False,
    ),
]
ThreadsOption = Annotated[int, typer.Option(min=1, help="Threads the kernels may use.")]
WorkersOption = Annotated[
    int,
    typer.Option(
        min=1, help="Images predicted at the same time; each worker is a copy of the program."
    ),
]
