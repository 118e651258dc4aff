"""What a manifest must obey beyond its types: it may not contradict itself."""

from __future__ import annotations

import math
import re
import unicodedata
from itertools import pairwise
from typing import TYPE_CHECKING

import msgspec

from offramp.bundle._values import check_values
from offramp.errors import ManifestError

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Iterator, Sequence

    from offramp.bundle._manifest import (
        Certificate,
        FileEntry,
        LatencyEntry,
        Manifest,
        Policy,
        ProgramEntry,
        TensorEntry,
    )

__all__ = ["LARGEST_BUNDLE_BYTES", "check_manifest", "listed_files"]

# Plain names only: no dot first (so neither ".." nor hidden files) or last, no backslash, colon,
# space or letter outside ASCII: file systems fold, escape, drop or forbid them each in its way.
_SEGMENT = re.compile(r"[A-Za-z0-9_+-]([A-Za-z0-9._+-]*[A-Za-z0-9_+-])?")
# Devices on Windows, whatever follows the first dot.
_DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)
LARGEST_BUNDLE_BYTES = 2**31
_LARGEST_SIDE = 2**14
_LARGEST_TENSOR_ELEMENTS = 2**28
_OF_TIME = ("mean_latency", "tail_latency")
_COMPARING = ("accuracy_drop", "class_drop", "disagreement", "early_exit_drop")
_STORED_RANGE = {"int8": (-128, 127), "int16": (-(2**15), 2**15 - 1), "uint8": (0, 255)}


def listed_files(manifest: Manifest) -> tuple[FileEntry, ...]:
    """All files of a bundle besides the manifest, in the order they are listed."""
    programs = (file for program in manifest.programs for file in program.files)
    return (*programs, manifest.vectors)


def check_manifest(manifest: Manifest) -> None:
    """Refuse a manifest that contradicts itself.

    Raises:
        ManifestError: Names the key, the value and what was expected.
    """
    check_values(msgspec.to_builtins(manifest))
    # Two spellings of one accented letter look alike, and on some file systems are one folder.
    _check_unique("labels", (unicodedata.normalize("NFC", label) for label in manifest.labels))
    for side in ("height", "width"):
        if (size := getattr(manifest.input, side)) > _LARGEST_SIDE:
            raise _fault(f"input.{side}", size, f"at most {_LARGEST_SIDE}")
    _check_files(listed_files(manifest))
    _check_stages(manifest)
    names = [program.name for program in manifest.programs]
    _check_unique("programs", names)
    for place, program in enumerate(manifest.programs):
        _check_program(manifest, program, f"programs[{place}]")
    _check_unique("policies", [(policy.program, policy.name) for policy in manifest.policies])
    for place, policy in enumerate(manifest.policies):
        _check_known(f"policies[{place}].program", policy.program, names)
        _check_policy(policy, len(manifest.stages), f"policies[{place}]")
    _check_unique(
        "latencies",
        (
            (entry.program, tuple(sorted(entry.device.items())), entry.threads)
            for entry in manifest.latencies
        ),
    )
    for place, entry in enumerate(manifest.latencies):
        _check_known(f"latencies[{place}].program", entry.program, names)
        _check_latency(entry, len(manifest.stages), f"latencies[{place}]")


def _fault(key: str, value: object, expected: str) -> ManifestError:
    return ManifestError(f"manifest.json: key {key!r} is {value!r}, expected {expected}")


def _check_unique(key: str, values: Iterable[Hashable]) -> None:
    seen: set[Hashable] = set()
    for place, value in enumerate(values):
        if value in seen:
            raise _fault(f"{key}[{place}]", value, "each only once")
        seen.add(value)


def _check_known(key: str, name: str, names: list[str]) -> None:
    if name not in names:
        raise _fault(key, name, f"one of the programs {', '.join(names)}")


def _check_files(files: Sequence[FileEntry]) -> None:
    folded: set[str] = {"manifest.json"}
    folders: set[str] = set()
    for file in files:
        segments = file.path.split("/")
        if not all(map(_SEGMENT.fullmatch, segments)) or any(map(_DEVICE.fullmatch, segments)):
            raise _fault(
                "path",
                file.path,
                "a relative path of plain names (A-Z a-z 0-9 . _ + -; no dot first or last, "
                "no name of a Windows device) and slashes",
            )
        # A file system that ignores case would let one file take another's place.
        name = file.path.lower()
        if name in folded:
            raise _fault("path", file.path, "each file only once, upper and lower case alike")
        folded.add(name)
        parts = name.split("/")
        folders |= {"/".join(parts[:length]) for length in range(1, len(parts))}
    if clash := sorted(folded & folders):
        raise _fault("path", clash[0], "either a file or a folder, not both")
    total = sum(file.size_bytes for file in files)
    if total > LARGEST_BUNDLE_BYTES:
        raise _fault("size_bytes", total, f"at most {LARGEST_BUNDLE_BYTES} in all files together")


def _check_stages(manifest: Manifest) -> None:
    last = len(manifest.stages) - 1
    for place, stage in enumerate(manifest.stages):
        key = f"stages[{place}]"
        if stage.name != f"stage_{place}":
            raise _fault(f"{key}.name", stage.name, f"'stage_{place}'")
        if (place == last) != (not stage.carry_shapes):
            expected = "no carry after the last stage" if place == last else "a carry"
            raise _fault(f"{key}.carry_shapes", stage.carry_shapes, expected)


def _check_program(manifest: Manifest, program: ProgramEntry, key: str) -> None:
    if len(program.stages) != len(manifest.stages):
        raise _fault(f"{key}.stages", len(program.stages), f"{len(manifest.stages)} stages")
    mixed, precisions = program.precision == "mixed", program.stage_precisions
    if len(precisions) != (len(manifest.stages) if mixed else 0) or len(set(precisions)) == 1:
        expected = (
            f"{len(manifest.stages)} precisions, one per stage and not all alike"
            if mixed
            else f"none for {program.precision}"
        )
        raise _fault(f"{key}.stage_precisions", precisions, expected)
    if program.runtime == "litert" and len(program.files) != 1:
        raise _fault(f"{key}.files", len(program.files), "one file, as LiteRT programs have")
    for name, tensor in _tensors(program, key):
        _check_tensor(tensor, name)
    image = (1, manifest.input.height, manifest.input.width, 3)
    if [tensor.shape for tensor in program.stages[0].inputs] != [image]:
        shapes = [tensor.shape for tensor in program.stages[0].inputs]
        raise _fault(f"{key}.stages[0].inputs", shapes, f"one image {image}, as 'input' says")
    for place, stage in enumerate(program.stages):
        outputs = f"{key}.stages[{place}].outputs"
        carry = manifest.stages[place].carry_shapes
        if len(stage.outputs) != 1 + len(carry):
            raise _fault(
                outputs,
                f"{len(stage.outputs)} tensors",
                f"the logits and {len(carry)} of the carry",
            )
        if stage.outputs[0].shape != (1, len(manifest.labels)):
            raise _fault(
                f"{outputs}[0].shape", stage.outputs[0].shape, f"{(1, len(manifest.labels))}"
            )
        for number, (tensor, shape) in enumerate(zip(stage.outputs[1:], carry, strict=True)):
            # A program may keep its maps channel-first, so only the sizes must agree.
            if sorted(tensor.shape) != sorted(shape):
                raise _fault(f"{outputs}[{number + 1}].shape", tensor.shape, f"the carry {shape}")
    for place, (stage, following) in enumerate(pairwise(program.stages)):
        # Runtimes pass the buffer on as bytes: another scale would be a wrong answer, no error.
        if stage.outputs[1:] != following.inputs:
            raise _fault(
                f"{key}.stages[{place + 1}].inputs",
                following.inputs,
                f"the carry of stage {place}, {stage.outputs[1:]!r}, "
                "with equal shapes, dtypes and quantization",
            )


def _tensors(program: ProgramEntry, key: str) -> Iterator[tuple[str, TensorEntry]]:
    for place, stage in enumerate(program.stages):
        for side, tensors in (("inputs", stage.inputs), ("outputs", stage.outputs)):
            for number, tensor in enumerate(tensors):
                yield f"{key}.stages[{place}].{side}[{number}]", tensor


def _check_tensor(tensor: TensorEntry, key: str) -> None:
    if math.prod(tensor.shape) > _LARGEST_TENSOR_ELEMENTS:
        raise _fault(f"{key}.shape", tensor.shape, f"at most {_LARGEST_TENSOR_ELEMENTS} elements")
    bounds = _STORED_RANGE.get(tensor.dtype)
    if (bounds is None) != (tensor.quantization is None):
        expected = "a scale and zero point" if bounds else f"none for {tensor.dtype}"
        raise _fault(f"{key}.quantization", tensor.quantization, expected)
    if bounds and tensor.quantization:
        low, high = bounds
        if not low <= tensor.quantization.zero_point <= high:
            raise _fault(
                f"{key}.quantization.zero_point",
                tensor.quantization.zero_point,
                f"{low} to {high}, as {tensor.dtype} can hold",
            )


def _check_policy(policy: Policy, exits: int, key: str) -> None:
    for name in ("temperatures", "thresholds", "enabled"):
        values = getattr(policy, name)
        if len(values) != exits:
            raise _fault(f"{key}.{name}", values, f"{exits} values, one per exit")
    for name in ("exit_shares", "exit_counts"):
        values = getattr(policy, name)
        if values and len(values) != exits:
            raise _fault(f"{key}.{name}", values, f"{exits} values, one per exit, or none")
    if policy.name == "last":
        raise _fault(f"{key}.name", "last", "another name: 'last' means to run all stages")
    if not policy.enabled[-1]:
        raise _fault(f"{key}.enabled", policy.enabled, "the last exit enabled: it always answers")
    if any(exit >= exits for exit in policy.vector_exits):
        raise _fault(f"{key}.vector_exits", policy.vector_exits, f"exits below {exits}")
    kinds = [certificate.kind for certificate in policy.certificates]
    _check_unique(f"{key}.certificates", kinds)
    if "selective_error" in kinds and policy.abstain_below is None:
        raise _fault(f"{key}.abstain_below", None, "a signal, as selective_error is promised")
    for place, certificate in enumerate(policy.certificates):
        _check_certificate(certificate, exits, f"{key}.certificates[{place}]")


def _check_certificate(certificate: Certificate, exits: int, key: str) -> None:
    kind, limit, times = certificate.kind, certificate.limit, certificate.exit_ms
    of_time = kind in _OF_TIME
    if not 0.0 < limit < (math.inf if of_time else 1.0):
        expected = "a time above 0" if of_time else "a fraction above 0 and below 1"
        raise _fault(f"{key}.limit", limit, expected)
    for name in ("observed", "upper_bound"):
        if getattr(certificate, name) > limit:
            raise _fault(f"{key}.{name}", getattr(certificate, name), f"at most the limit {limit}")
    if (certificate.reference is None) != (kind not in _COMPARING):
        expected = "'self' or 'float'" if kind in _COMPARING else f"none for {kind}"
        raise _fault(f"{key}.reference", certificate.reference, expected)
    if (certificate.quantile is None) != (kind != "tail_latency"):
        expected = "a quantile" if kind == "tail_latency" else f"none for {kind}"
        raise _fault(f"{key}.quantile", certificate.quantile, expected)
    if len(times) != (exits if of_time else 0) or list(times) != sorted(times):
        expected = f"{exits} times, one per exit, none falling" if of_time else f"none for {kind}"
        raise _fault(f"{key}.exit_ms", times, expected)


def _check_latency(entry: LatencyEntry, stages: int, key: str) -> None:
    samples = entry.stage_samples_ms
    if len(samples) != stages or not all(samples):
        counts = [len(stage) for stage in samples]
        raise _fault(f"{key}.stage_samples_ms", counts, f"{stages} stages with samples each")
