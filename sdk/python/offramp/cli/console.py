"""What all commands print with: progress, tables, JSON."""

from __future__ import annotations

import re
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

__all__ = ["emit", "progress", "table"]

_NUMBER = re.compile(r"[-+]?\d[\d.,]*( ?%| ?[a-zA-Z]{1,2})?|-")
# A pipe has no width; this is wider than any row, so that no cell is ever cut or wrapped there.
_PIPE_WIDTH = 1000


@contextmanager
def progress(
    description: str, total: int | None = None
) -> Iterator[Callable[[int, int | None], None]]:
    """Show a progress bar on standard error for as long as the block runs.

    Nothing is drawn when standard error is not a terminal.

    Args:
        description: What is going on, such as ``"Running litert/int8"``.
        total: How many steps there are; ``None`` while that is unknown.

    Yields:
        A function ``report(done, total)`` to call as the work advances; a total of ``None`` keeps
        the one known before.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    terminal = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=terminal,
        transient=True,
        disable=not terminal.is_terminal,
    )
    with bar:
        task = bar.add_task(description, total=total)

        def report(done: int, total: int | None = None) -> None:
            if total is None:
                bar.update(task, completed=done)
            else:
                bar.update(task, completed=done, total=total)

        yield report


def table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str | None = None
) -> None:
    """Print a table on standard output; columns that hold only numbers are aligned to the right.

    Args:
        columns: The headings.
        rows: One sequence of cells per row, as many as there are headings.
        title: A line above the table.
    """
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    cells = [[str(cell) for cell in row] for row in rows]
    terminal = Console()
    if not terminal.is_terminal:
        terminal = Console(width=_PIPE_WIDTH)
    result = Table(box=SIMPLE_HEAD, pad_edge=False)
    for index, heading in enumerate(columns):
        numeric = bool(cells) and all(_NUMBER.fullmatch(row[index]) for row in cells)
        result.add_column(Text(heading), justify="right" if numeric else "left", no_wrap=numeric)
    for row in cells:
        result.add_row(*(Text(cell) for cell in row))
    if title is not None:
        # Not the table's own title, which would be wrapped to the width of its columns.
        terminal.print(Text(title))
    terminal.print(result)


def emit(as_json: bool, data: Any, render: Callable[[], None]) -> None:
    """Print a result for programs or for people.

    Args:
        as_json: Whether ``--json`` was given.
        data: What to print as JSON: anything ``msgspec`` can encode (dictionaries, tuples,
            dataclasses, structs, numbers of Python's own types).
        render: Prints the same for people.
    """
    if not as_json:
        render()
        return
    import msgspec

    text = msgspec.json.format(msgspec.json.encode(data), indent=2)
    sys.stdout.write(text.decode() + "\n")
