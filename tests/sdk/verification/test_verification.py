"""A sound bundle passes; one that answers otherwise does not, and nothing passes unseen."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest

from offramp.bundle import Bundle, Manifest, Policy, describe_file, encode_vectors, write_bundle
from offramp.errors import BundleError
from offramp.verification import PolicyCheck, ProgramCheck, VerificationReport, verify

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Parts = tuple[Manifest, dict[str, bytes]]


def with_logits(
    path: Path, bundle: Bundle, parts: Parts, change: Callable[[dict[str, Any]], None]
) -> Bundle:
    """The same bundle with other recorded logits, all hashes right."""
    vectors = bundle.vectors()
    logits = {name: array.copy() for name, array in vectors.logits.items()}
    change(logits)
    data = encode_vectors(vectors.images, logits)
    manifest = msgspec.structs.replace(bundle.manifest, vectors=describe_file("vectors.npz", data))
    return write_bundle(path, manifest, {**parts[1], "vectors.npz": data})


def claiming(bundle: Bundle, manifest: Manifest) -> Bundle:
    """A bundle object that says something else of the same files."""
    other = object.__new__(Bundle)
    other.__dict__.update({**vars(bundle), "_manifest": manifest})
    return other


def test_a_sound_bundle_passes(bundle: Bundle, make_policy: Callable[..., Policy]) -> None:
    bundle = bundle.add_policy(make_policy()).add_policy(make_policy(name="saver"))
    seen: list[tuple[int, int]] = []
    report = verify(bundle, progress=lambda done, total: seen.append((done, total)))
    assert report.ok
    assert [check.program for check in report.programs] == ["litert/float32", "litert/int8"]
    assert [len(check.policies) for check in report.programs] == [0, 2]
    assert all(check.images == 8 and check.ok for check in report.programs)
    assert report.not_run == ()
    assert seen == [(done, 16) for done in range(1, 17)]


def test_one_program_can_be_chosen(bundle: Bundle) -> None:
    report = verify(bundle, ["litert/int8"])
    assert [check.program for check in report.programs] == ["litert/int8"]


def test_an_unknown_program_is_named(bundle: Bundle) -> None:
    with pytest.raises(BundleError, match="litert/float16"):
        verify(bundle, ["litert/float16"])


@pytest.mark.parametrize("program", ["litert/float32", "litert/int8"])
@pytest.mark.parametrize("exit", [0, 2])
def test_other_logits_fail_where_they_differ(
    tmp_path: Path, bundle: Bundle, bundle_parts: Parts, program: str, exit: int
) -> None:
    tolerance = verify(bundle, [program]).programs[0].tolerances[exit]

    def change(logits: dict[str, Any]) -> None:
        logits[program][exit] += 2.5 * tolerance

    report = verify(with_logits(tmp_path / "other", bundle, bundle_parts, change))
    assert not report.ok
    for check in report.programs:
        assert check.ok == (check.program != program)
        beyond = [
            place
            for place, (difference, allowed) in enumerate(
                zip(check.differences, check.tolerances, strict=True)
            )
            if difference > allowed
        ]
        assert beyond == ([exit] if check.program == program else [])


def test_the_tolerances_are_those_stated(bundle: Bundle) -> None:
    floating, integer = verify(bundle).programs
    recorded = bundle.vectors().logits["litert/float32"]
    for exit in range(3):
        assert floating.tolerances[exit] == pytest.approx(1e-4 * np.abs(recorded[exit]).max())
        step = bundle.program("litert/int8").stages[exit].outputs[0].quantization
        assert step is not None
        assert integer.tolerances[exit] == pytest.approx(4 * step.scale, rel=1e-4)


def test_answers_that_differ_are_counted(
    tmp_path: Path, bundle: Bundle, bundle_parts: Parts
) -> None:
    def change(logits: dict[str, Any]) -> None:
        row = logits["litert/float32"][1, 3]
        first, second = np.argsort(row)[[-1, -2]]
        row[first], row[second] = row[second], row[first]

    report = verify(with_logits(tmp_path / "other", bundle, bundle_parts, change))
    assert [check.labels_differing for check in report.programs] == [1, 0]
    assert not report.ok


def test_another_exit_than_was_recorded_fails(
    bundle: Bundle, make_policy: Callable[..., Policy]
) -> None:
    bundle = bundle.add_policy(make_policy())
    (policy,) = bundle.manifest.policies
    moved = tuple((exit + 1) % 3 for exit in policy.vector_exits[:2]) + policy.vector_exits[2:]
    manifest = msgspec.structs.replace(
        bundle.manifest, policies=(msgspec.structs.replace(policy, vector_exits=moved),)
    )
    report = verify(claiming(bundle, manifest))
    (check,) = report.programs[1].policies
    assert check == PolicyCheck("default", 2)
    assert not report.ok


def test_programs_of_other_runtimes_are_listed_and_not_passed(
    tmp_path: Path, bundle: Bundle, bundle_parts: Parts
) -> None:
    manifest, files = bundle_parts
    foreign = msgspec.structs.replace(
        manifest.programs[0],
        runtime="coreml",
        files=(describe_file("coreml/float32.mlmodel", b"model"),),
    )
    vectors = bundle.vectors()

    def made(name: str, programs: tuple[Any, ...]) -> Bundle:
        logits = {
            program.name: vectors.logits[f"litert/{program.precision}"] for program in programs
        }
        data = encode_vectors(vectors.images, logits)
        changed = msgspec.structs.replace(
            manifest, programs=programs, vectors=describe_file("vectors.npz", data)
        )
        given = {**files, "coreml/float32.mlmodel": b"model", "vectors.npz": data}
        listed = {file.path for program in programs for file in program.files} | {"vectors.npz"}
        return write_bundle(tmp_path / name, changed, {path: given[path] for path in listed})

    both = verify(made("both", (*manifest.programs, foreign)))
    assert both.ok
    assert [(skipped.program, "apps" in skipped.reason) for skipped in both.not_run] == [
        ("coreml/float32", True)
    ]
    alone = verify(made("alone", (foreign,)))
    assert alone.programs == ()
    assert not alone.ok


def test_a_program_the_runtime_refuses_fails_with_its_reason(
    tmp_path: Path, bundle_parts: Parts
) -> None:
    manifest, files = bundle_parts
    broken = files["litert/float32.tflite"][:-4000]
    program = msgspec.structs.replace(
        manifest.programs[0], files=(describe_file("litert/float32.tflite", broken),)
    )
    changed = msgspec.structs.replace(manifest, programs=(program, manifest.programs[1]))
    bundle = write_bundle(tmp_path / "broken", changed, {**files, "litert/float32.tflite": broken})
    report = verify(bundle)
    assert report.programs[0].error
    assert [check.ok for check in report.programs] == [False, True]
    assert not report.ok


def test_no_check_passes_on_logits_that_are_not_numbers() -> None:
    check = ProgramCheck("litert/int8", 8, (float("inf"),), (1.0,))
    assert not check.ok
    assert not dataclasses.replace(check, differences=(0.0,), images=0).ok
    assert dataclasses.replace(check, differences=(0.0,)).ok


def test_nothing_run_is_not_ok() -> None:
    assert not VerificationReport((), ()).ok
