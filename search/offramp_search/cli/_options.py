"""Options that several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["CacheOption", "DataOption", "JsonOption", "SeedOption"]

DataOption = Annotated[
    str,
    typer.Option(
        "--data",
        help="A folder with one sub-folder of images per class, a folder with train.parquet, "
        "fashion-mnist, or a hub name OWNER/NAME.",
    ),
]
SeedOption = Annotated[int, typer.Option("--seed", min=0, help="Seed of everything.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")]
CacheOption = Annotated[
    Path,
    typer.Option("--cache", help="Where downloaded images are kept.", envvar="OFFRAMP_CACHE"),
]
