"""The command ``offramp demo``."""

# ruff: noqa: TC001 - typer reads the annotations at run time
from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from offramp_search.cli._options import CacheOption, DataOption, JsonOption, SeedOption
from offramp_search.cli._output import emit, make_reporter

__all__ = ["demo"]


def demo(
    data: DataOption = "fashion-mnist",
    out: Annotated[Path, typer.Option("--out", help="Where every step leaves its file.")] = Path(
        "runs/demo"
    ),
    seed: SeedOption = 0,
    quick: Annotated[
        bool, typer.Option("--quick", help="Tiny sizes: shows that every step works, no more.")
    ] = False,
    result: Annotated[
        Path | None,
        typer.Option("--result", help="Write the result here, too.", show_default=False),
    ] = None,
    cache: CacheOption = Path(".cache"),
    as_json: JsonOption = False,
) -> None:
    """Show the whole way on real images: train, search, export, certify, measure.

    On two cores it takes less than ten minutes. What is in the --out folder already is not done
    again.
    """
    from offramp_search.demo import run_demo

    outcome = run_demo(
        data, out, cache=cache, seed=seed, quick=quick, result=result, reporter=make_reporter()
    )
    images = sorted(str(path) for path in (out / "images").iterdir())
    # As it was called, so that the line works whether or not the environment is active.
    program = sys.argv[0] if Path(sys.argv[0]).name == "offramp" else "offramp"
    line = f"{program} predict {outcome.dynamic.path} {' '.join(images[:3])}"
    emit(as_json, outcome, [f"plot: {out / 'demo.png'}", f"try: {line}"])
