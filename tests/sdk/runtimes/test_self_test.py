"""A program that answers otherwise than recorded is not handed out."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest

from offramp.bundle import Vectors, describe_file, encode_vectors, write_bundle
from offramp.errors import ProgramError, SelfTestError
from offramp.policy import probabilities
from offramp.runtimes import _first_load, _isolated, logits_tolerance, open_runtime, self_test
from offramp.testing import FakeRuntime

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import ModuleType

    from offramp.bundle import Bundle, Manifest, Policy, ProgramEntry

replace = msgspec.structs.replace
NAME = "litert/float32"


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def entry(bundle: Bundle) -> ProgramEntry:
    return bundle.program(NAME)


@pytest.fixture
def recorded(rng: np.random.Generator) -> Vectors:
    logits = rng.standard_normal((3, 20, 5)).astype(np.float32)
    fake = FakeRuntime(logits)
    return Vectors(np.stack([fake.image(row) for row in range(20)]), {NAME: logits})


def test_what_was_seen_is_told(
    entry: ProgramEntry, recorded: Vectors, make_policy: Callable[..., Policy]
) -> None:
    policy = make_policy(program=NAME)
    result = self_test(FakeRuntime(recorded.logits[NAME]), entry, recorded, [policy])
    assert (result.images, result.differences) == (16, (0.0, 0.0, 0.0))
    assert result.exits_differing == {"default": 0}
    assert result.tolerances == pytest.approx(
        [1e-4 * np.abs(logits).max() for logits in recorded.logits[NAME]]
    )


@pytest.mark.parametrize("off", [0.01, -0.01, np.nan, np.inf])
def test_logits_out_of_tolerance(entry: ProgramEntry, recorded: Vectors, off: float) -> None:
    logits = recorded.logits[NAME].copy()
    logits[1, 3, 2] += off
    with pytest.raises(SelfTestError, match=r"logits of exit 1 differ by up to .* in FakeRuntime"):
        self_test(FakeRuntime(logits), entry, recorded)
    with pytest.raises(SelfTestError) as raised:
        self_test(FakeRuntime(logits), entry, recorded)
    error = raised.value
    assert (error.program, error.exit) == (NAME, 1)
    assert error.difference == pytest.approx(abs(off) if np.isfinite(off) else np.inf, rel=1e-3)
    assert error.tolerance == logits_tolerance(entry, 1, recorded.logits[NAME][1])
    assert isinstance(error, ProgramError)


def test_a_tolerance_is_that_of_the_coarsest_stage_before_the_exit(entry: ProgramEntry) -> None:
    logits = np.array([[2.0, -1.27]], np.float32)
    mixed = replace(entry, precision="mixed", stage_precisions=("float32", "int8", "float32"))
    assert mixed.name == "litert/float32,int8,float32"
    found = [logits_tolerance(mixed, exit, logits) for exit in range(3)]
    assert found == pytest.approx([2e-4, 8 / 127, 8 / 127], rel=1e-4)
    swapped = replace(mixed, stage_precisions=("int16x8", "float32", "float16"))
    found = [logits_tolerance(swapped, exit, logits) for exit in range(3)]
    assert found == pytest.approx([2e-3, 2e-3, 2e-2])


def test_images_beyond_the_limit_are_not_run(entry: ProgramEntry, recorded: Vectors) -> None:
    logits = recorded.logits[NAME].copy()
    logits[0, 16:] += 1
    fake = FakeRuntime(logits)
    self_test(fake, entry, recorded)
    assert len(fake.stages_run) == 3 * 16
    with pytest.raises(SelfTestError):
        self_test(fake, entry, recorded, images=17)


def test_an_image_close_to_a_threshold_is_counted_only(
    entry: ProgramEntry, recorded: Vectors, make_policy: Callable[..., Policy]
) -> None:
    """Within tolerance a machine may round an image over a threshold."""
    logits = recorded.logits[NAME].copy()
    top = float(probabilities(logits[0, 0]).max())
    policy = make_policy(program=NAME, thresholds=(top, 1.0, 0.0))
    logits[0, 0, logits[0, 0].argmax()] -= 1e-5
    result = self_test(FakeRuntime(logits), entry, recorded, [policy])
    assert result.exits_differing == {"default": 1}


def test_the_rule_itself_may_not_differ(
    entry: ProgramEntry, recorded: Vectors, make_policy: Callable[..., Policy]
) -> None:
    policy = make_policy(
        program=NAME, thresholds=(0.0, 0.0, 0.0), vector_exits=(0, 0, 1, *[0] * 17)
    )
    with pytest.raises(SelfTestError, match="test image 2 leave at exit 0 here, and at exit 1"):
        self_test(FakeRuntime(recorded.logits[NAME]), entry, recorded, [policy])


@pytest.fixture
def wrong(tmp_path: Path, bundle_parts: tuple[Manifest, dict[str, bytes]], programs: Any) -> Bundle:
    """A bundle, sound by its hashes, whose int8 program was recorded on a machine unlike this."""
    manifest, files = bundle_parts
    logits = {f"litert/{name}": programs.logits[name].copy() for name in ("float32", "int8")}
    logits["litert/int8"][2] += 1
    files = {**files, "vectors.npz": encode_vectors(programs.images, logits)}
    changed = replace(manifest, vectors=describe_file("vectors.npz", files["vectors.npz"]))
    return write_bundle(tmp_path / "wrong", changed, files)


def test_a_wrong_program_is_not_handed_out(wrong: Bundle) -> None:
    for _ in range(2):  # a failure is not remembered as a pass
        with pytest.raises(SelfTestError, match=r"litert/int8 does not answer .* exit 2"):
            open_runtime(wrong, "litert/int8")
    open_runtime(wrong, "litert/int8", self_test="never").close()
    open_runtime(wrong, NAME).close()
    with pytest.raises(ValueError, match="self_test is 'sometimes'"):
        open_runtime(wrong, NAME, self_test="sometimes")  # type: ignore[arg-type]


@pytest.fixture
def count(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How often a self-test has run."""
    runs: list[str] = []
    for name in ("self_test", "compare_logits"):
        _count_calls(_first_load, name, runs, monkeypatch)
    return lambda: len(runs)


@pytest.fixture
def count_processes(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How often a program was tried in a process of its own."""
    runs: list[str] = []
    _count_calls(_isolated, "run_isolated", runs, monkeypatch)
    return lambda: len(runs)


def _count_calls(
    module: ModuleType, name: str, runs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = getattr(module, name)

    def counted(*arguments: Any, **options: Any) -> Any:
        runs.append(name)
        return real(*arguments, **options)

    monkeypatch.setattr(module, name, counted)


def test_it_runs_once(
    bundle: Bundle,
    count: Callable[[], int],
    count_processes: Callable[[], int],
    tmp_path: Path,
) -> None:
    for _ in range(3):
        open_runtime(bundle, NAME).close()
    assert count() == 1
    open_runtime(bundle, "litert/int8").close()
    assert count() == 2
    open_runtime(bundle, NAME, self_test="always").close()
    assert count() == 3
    assert count_processes() == 2
    for file in (tmp_path / "cache" / "offramp" / "self-tests").iterdir():
        file.write_bytes(file.read_bytes()[:-1])
    open_runtime(bundle, NAME).close()
    open_runtime(bundle, "litert/int8").close()
    assert (count(), count_processes()) == (5, 4)


def test_in_process_starts_no_other(
    bundle: Bundle, count: Callable[[], int], count_processes: Callable[[], int]
) -> None:
    open_runtime(bundle, NAME, self_test="in_process").close()
    open_runtime(bundle, NAME, self_test="in_process").close()
    open_runtime(bundle, NAME, self_test="always").close()
    assert (count(), count_processes()) == (2, 0)


@pytest.mark.skipif(sys.platform == "win32", reason="a file there has no owner like this")
def test_what_another_user_says_is_not_believed(
    bundle: Bundle,
    count_processes: Callable[[], int],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    open_runtime(bundle, NAME).close()
    mine = os.geteuid()
    if mine == 0:
        for file in (tmp_path / "cache" / "offramp" / "self-tests").iterdir():
            os.chown(file, 12345, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: mine + 1)
    open_runtime(bundle, NAME).close()
    assert count_processes() == 2


def test_another_policy_is_tested_too(
    bundle: Bundle,
    count: Callable[[], int],
    count_processes: Callable[[], int],
    make_policy: Callable[..., Policy],
) -> None:
    open_runtime(bundle, "litert/int8").close()
    bundle = bundle.add_policy(make_policy())
    open_runtime(bundle, "litert/int8").close()
    open_runtime(bundle, "litert/int8").close()
    # The program itself has been seen to do no harm.
    assert (count(), count_processes()) == (2, 1)


def test_without_a_cache_it_runs_every_time(
    bundle: Bundle, count: Callable[[], int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    open_runtime(bundle, NAME).close()
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pathlib.Path.home", _no_home)
    open_runtime(bundle, NAME).close()
    assert count() == 2


def _no_home() -> Path:
    raise RuntimeError("no home")
