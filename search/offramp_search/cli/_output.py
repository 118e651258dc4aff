"""How commands tell how a run goes and what it comes to."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from offramp.cli import console

if TYPE_CHECKING:
    from offramp_search.pipeline import Outcome, Reporter

__all__ = ["emit", "make_reporter"]


def emit(as_json: bool, outcome: Outcome, lines: list[str]) -> None:
    """Print what a run comes to, as a table or as JSON."""
    from offramp_search.pipeline import (
        CHECK_COLUMNS,
        COLUMNS,
        as_figures,
        check_rows,
        correction_line,
        table_rows,
    )

    def render() -> None:
        checks = check_rows(outcome)
        if checks:
            console.table(CHECK_COLUMNS, checks)
        correction = correction_line(outcome)
        if correction is not None:
            print(correction)
        console.table(COLUMNS, table_rows(outcome))
        for row in outcome.rows:
            print(f"{row.program}: {row.certificate.claim}")
        for line in (f"bundle: {outcome.dynamic.path}", *lines):
            print(line)

    data: dict[str, Any] = {"bundle": str(outcome.dynamic.path), **as_figures(outcome)}
    console.emit(as_json, data, render)


def make_reporter() -> Reporter:
    """Tells on standard error how a run goes."""
    import time

    from offramp_search.pipeline import Reporter

    began = time.monotonic()

    def say(line: str) -> None:
        sys.stderr.write(f"[{time.monotonic() - began:5.0f} s] {line}{os.linesep}")
        sys.stderr.flush()

    return Reporter(progress=console.progress, say=say)
