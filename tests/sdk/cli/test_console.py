"""What commands print with."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from offramp.cli import console

if TYPE_CHECKING:
    import pytest


@dataclass
class Point:
    x: int
    y: float


def test_a_table_keeps_every_cell_whole_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    long = "x" * 300
    console.table(("name", "ms"), [(long, "1.5"), ("b [bold]c[/bold]", "12.25")], title="Times")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].strip() == "Times"
    (long_row,) = [line for line in lines if long in line]
    (other_row,) = [line for line in lines if "b [bold]c[/bold]" in line]
    # Numbers end in the same column.
    assert len(long_row.rstrip()) == len(other_row.rstrip())


def test_a_table_without_rows_is_its_headings(capsys: pytest.CaptureFixture[str]) -> None:
    console.table(("name", "ms"), [])
    assert "name" in capsys.readouterr().out


def test_json_or_words_and_never_both(capsys: pytest.CaptureFixture[str]) -> None:
    console.emit(True, {"at": Point(1, 0.5), "none": None}, lambda: print("words"))
    assert json.loads(capsys.readouterr().out) == {"at": {"x": 1, "y": 0.5}, "none": None}
    console.emit(False, {"at": 1}, lambda: print("words"))
    assert capsys.readouterr().out == "words\n"


def test_progress_says_nothing_where_nobody_looks(capsys: pytest.CaptureFixture[str]) -> None:
    with console.progress("Working", total=3) as report:
        for done in range(3):
            report(done + 1, 3)
    assert capsys.readouterr() == ("", "")


def test_progress_draws_on_the_error_stream_of_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with console.progress("Working") as report:
        report(1, 3)
        report(2, None)
    out, err = capsys.readouterr()
    assert out == ""
    assert "Working" in err
    assert "2/3" in err
