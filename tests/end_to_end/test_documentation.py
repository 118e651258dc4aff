"""Commands and output shown in the documentation are what a reader gets."""

from __future__ import annotations

import doctest
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pytest

if TYPE_CHECKING:
    import subprocess

    class Offramp(Protocol):
        def __call__(self, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]: ...


ROOT = Path(__file__).resolve().parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
SHAPES = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def blocks(page: str, language: str) -> list[str]:
    """The fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


def sessions(page: str) -> list[tuple[str, str]]:
    """Commands of the console blocks, and the output shown below each."""
    found = []
    for block in blocks(page, "console"):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            found.append((command, output))
    return found


CONSOLE = [(page, *session) for page in PAGES for session in sessions(page.read_text())]
PYTHON = [(page, code) for page in PAGES for code in blocks(page.read_text(), "python")]


@pytest.mark.parametrize(
    ("page", "command", "output"), CONSOLE, ids=[f"{p.name}: {c}" for p, c, _ in CONSOLE]
)
def test_commands_print_what_is_shown(
    page: Path, command: str, output: str, demo: Path, offramp: Offramp
) -> None:
    program, *arguments = shlex.split(command)
    assert program in ("offramp", ".venv/bin/offramp"), f"{page.name} shows another program"
    done = offramp(*arguments, folder=demo)
    printed = done.stdout + done.stderr
    assert done.returncode == 0, printed
    plain = "\n".join(line.rstrip() for line in printed.splitlines()) + "\n"
    assert doctest.OutputChecker().check_output(output, plain, SHAPES), printed


@pytest.mark.parametrize(
    ("page", "code"), PYTHON, ids=[f"{p.name}-{number}" for number, (p, _) in enumerate(PYTHON)]
)
def test_code_runs(page: Path, code: str, demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(demo)
    exec(compile(code, page.name, "exec"), {"__name__": "documentation"})


def test_there_is_something_to_run() -> None:
    assert len(CONSOLE) >= 5
    assert len(PYTHON) >= 2


def test_a_wrong_output_would_be_noticed() -> None:
    checker = doctest.OutputChecker()
    assert checker.check_output("one ... three\n", "one  two three\n", SHAPES)
    assert not checker.check_output("one ... four\n", "one two three\n", SHAPES)
