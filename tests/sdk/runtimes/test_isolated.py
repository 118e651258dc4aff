"""A program that kills or hangs ends a process of its own, and is refused in words."""

from __future__ import annotations

import multiprocessing
import multiprocessing.spawn
import sys
import tempfile
import time
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pytest

from offramp.bundle import Bundle, describe_file, write_bundle
from offramp.classifier import DynamicClassifier
from offramp.errors import ProgramError
from offramp.runtimes import _isolated, open_runtime
from offramp.runtimes._isolated_main import HELLO
from offramp.verification import verify

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from offramp.bundle import Manifest

NAME = "litert/float32"
_PADDING = np.array([0, 0, 1, 1, 1, 1, 0, 0], np.int32).tobytes()


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def _with_program(parts: tuple[Manifest, dict[str, bytes]], folder: Path, program: bytes) -> Bundle:
    """A bundle, sound by its hashes, with another float32 program."""
    manifest, files = parts
    first, *others = manifest.programs
    assert first.name == NAME
    (path,) = (file.path for file in first.files)
    changed = msgspec.structs.replace(first, files=(describe_file(path, program),))
    return write_bundle(
        folder,
        msgspec.structs.replace(manifest, programs=(changed, *others)),
        {**files, path: program},
    )


@pytest.fixture(scope="session")
def make_bad(
    bundle_parts: tuple[Manifest, dict[str, bytes]], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[int, int], Bundle]:
    """Bundles, sound by their hashes, whose float32 program pads by another number.

    LiteRT believes the shape that the file declares for the result, and writes what the padding
    says; found by fuzzing.
    """

    def make(place: int, padding: int) -> Bundle:
        sound = bundle_parts[1]["litert/float32.tflite"]
        assert sound.count(_PADDING) == 1
        pads = np.frombuffer(_PADDING, np.int32).copy()
        pads[place] = padding
        folder = tmp_path_factory.mktemp("bad") / "bundle"
        return _with_program(bundle_parts, folder, sound.replace(_PADDING, pads.tobytes()))

    return make


@pytest.fixture(scope="session")
def killer(make_bad: Callable[[int, int], Bundle]) -> Bundle:
    return make_bad(3, 2**20)


def test_a_program_that_kills(killer: Bundle) -> None:
    for when in ("first", "always", "first"):
        with pytest.raises(
            ProgramError, match=r"litert/float32 was tried .* was ended by SIG\w+.*do not load it"
        ):
            open_runtime(killer, NAME, self_test=when)
    with pytest.raises(ProgramError, match="was ended by SIG"):
        DynamicClassifier.load(killer, program=NAME, policy="last")
    # Its neighbour is sound, and this process is, too.
    open_runtime(killer, "litert/int8").close()


def test_a_program_that_kills_can_be_verified(killer: Bundle) -> None:
    bad, good = verify(killer).programs
    assert "was ended by SIG" in str(bad.error)
    assert good.error is None


def test_a_program_that_hangs(
    make_bad: Callable[[int, int], Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_isolated, "_START_S", 4.0)
    began = time.monotonic()
    # It is busy for half a minute before it dies; with a quarter of that padding, a fast processor
    # came to the end within the four seconds.
    with pytest.raises(ProgramError, match="did not end within 4 s"):
        open_runtime(make_bad(5, 2**26), NAME)
    assert time.monotonic() - began < 120


def test_the_limit_grows_with_the_work() -> None:
    assert _isolated.limit_s(b"", 16, 0) == 30
    assert _isolated.limit_s(bytes(2_000_000), 16, 0) == 32
    assert _isolated.limit_s(b"", 16, 10**8) == 47
    assert _isolated.limit_s(b"", 16, 10**30) == 900


def test_standing_still_oneself_is_no_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    """After Ctrl-Z the clock has jumped, and nothing else has happened."""
    times = iter(range(0, 10**6, 1000))
    monkeypatch.setattr(time, "monotonic", lambda: next(times))
    command = [sys.executable, "-c", "import time; time.sleep(1.2); print(5)"]
    with tempfile.TemporaryFile() as files:
        status, output = _isolated._ask(command, files, files, 30)
    assert (status, output.strip()) == (0, b"5")


def test_a_large_program_and_a_slow_start(
    bundle: Bundle, interpreter: Callable[[str], None], tmp_path: Path
) -> None:
    """More than fits into a pipe, and nobody reads it for longer than the parent waits at once."""
    interpreter(_script(tmp_path, f'sleep 1; exec {sys.executable} "$@"'))
    entry = bundle.program(NAME)
    program = bundle.read(entry.files[0]) + bytes(2**20)
    images = bundle.vectors().images
    logits = _isolated.run_isolated(program, entry, images, runtime="litert", threads=1, limit_s=60)
    np.testing.assert_allclose(logits, bundle.vectors().logits[NAME], atol=1e-4)


@pytest.fixture
def interpreter() -> Iterator[Callable[[str], None]]:
    """Names the interpreter that starts other processes, and puts the right one back."""
    before = multiprocessing.spawn.get_executable()
    yield multiprocessing.set_executable
    multiprocessing.set_executable(before)


def _script(folder: Path, words: str) -> str:
    """An interpreter of another kind."""
    path = folder / "script"
    path.write_text(f"#!/bin/sh\n{words}\n")
    path.chmod(0o755)
    return str(path)


def test_where_no_process_can_be_started(
    bundle: Bundle, interpreter: Callable[[str], None], tmp_path: Path
) -> None:
    silent = _script(tmp_path, "echo no option -P >&2; exit 3")
    for executable, why in (
        ("", "does not know its own file"),
        (str(tmp_path / "none"), "No such file"),
        (silent, r"it ended with status 3 \(no option -P\)"),
    ):
        interpreter(executable)
        with pytest.raises(
            ProgramError,
            match=rf"could not be started: .*{why}.*set_executable.*self_test='in_process'",
        ):
            open_runtime(bundle, NAME)
    open_runtime(bundle, NAME, self_test="in_process").close()


def test_an_application_is_not_started_again(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    with pytest.raises(ProgramError, match="is an application, not an interpreter"):
        open_runtime(bundle, NAME)


def test_an_answer_that_makes_no_sense(
    bundle: Bundle, interpreter: Callable[[str], None], tmp_path: Path
) -> None:
    hello = HELLO.decode().strip()
    interpreter(_script(tmp_path, f"printf '%s\\n\\201' '{hello}'; cat >/dev/null"))
    with pytest.raises(ProgramError, match="whose answer makes no sense"):
        open_runtime(bundle, NAME)


def test_modules_of_the_current_folder_are_not_run(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "numpy.py").write_text("raise SystemExit(9)")
    monkeypatch.chdir(tmp_path)
    open_runtime(bundle, NAME).close()


def test_a_wrong_program_is_refused_as_by_its_own_process(
    bundle_parts: tuple[Manifest, dict[str, bytes]], tmp_path: Path
) -> None:
    """What the runtime says of a program reaches the user from the other process."""
    other = bundle_parts[1]["litert/int8.tflite"]
    wrong = _with_program(bundle_parts, tmp_path / "wrong", other)
    with pytest.raises(ProgramError, match=r"input 0 of stage_0 is int8 .* the manifest lists"):
        open_runtime(wrong, NAME)


def test_a_broken_file_starts_no_process(
    bundle_parts: tuple[Manifest, dict[str, bytes]],
    tmp_path: Path,
    interpreter: Callable[[str], None],
) -> None:
    cut = bundle_parts[1]["litert/float32.tflite"][:-2000]
    broken = _with_program(bundle_parts, tmp_path / "broken", cut)
    interpreter(str(tmp_path / "none"))
    for when in ("first", "in_process"):
        with pytest.raises(ProgramError, match="the file is broken"):
            open_runtime(broken, NAME, self_test=when)
