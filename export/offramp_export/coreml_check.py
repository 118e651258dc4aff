"""What only a Mac can check of a bundle: Core ML's own engines, their answers and their time.

Elsewhere a package is read back and computed operator by operator, each result rounded to the type
it declares. That proves the file. It does not show in which order the Neural Engine adds up, what
it computes in float16 although float32 is declared, which operators it refuses, or how long it
takes. On a Mac with macOS 15 or later:

    pip install "offramp[export]"
    python -m offramp_export.coreml_check BUNDLE --result coreml_on_mac.json

runs every Core ML program of a bundle on its test images, stage by stage, once on each set of
compute units, and compares with what was recorded when the bundle was made.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, final

import numpy as np

from offramp._files import write_atomically
from offramp.bundle import Bundle
from offramp.errors import BundleError, OfframpError
from offramp.latency import Latency
from offramp_export._require import require

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from offramp.bundle import ProgramEntry

    OpenStage = Callable[[Path, str | None], "CoreMLStage"]

__all__ = ["COMPUTE_UNITS", "CoreMLStage", "OnMac", "check_program", "stage_places"]

COMPUTE_UNITS = ("CPU_ONLY", "CPU_AND_GPU", "CPU_AND_NE", "ALL")
"""Those of coremltools."""

_WARM_UP_RUNS = 3
_DATA = ".mlpackage/Data/"


class CoreMLStage(Protocol):
    """A stage that Core ML has loaded: a ``coremltools.models.MLModel``."""

    def predict(self, inputs: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        """Run it on its inputs by name, for its outputs by name."""


@final
@dataclass(frozen=True, slots=True)
class OnMac:
    """What one set of compute units makes of one program.

    Attributes:
        program: ``coreml/precision``.
        compute_units: One of ``COMPUTE_UNITS``.
        images: How many were run.
        label_agreement: Per exit, the share of images with the recorded label.
        difference: Per exit, the largest absolute difference of a logit from the recorded one, as a
            fraction of the largest recorded logit.
        stage_ms: Per stage, the median time of a call, in milliseconds; it counts what Python and
            coremltools add to each.
    """

    program: str
    compute_units: str
    images: int
    label_agreement: tuple[float, ...]
    difference: tuple[float, ...]
    stage_ms: tuple[float, ...]


def stage_places(program: ProgramEntry) -> list[tuple[str, str | None]]:
    """For each stage its package in the bundle, and its function there, if it has more than one.

    Raises:
        BundleError: The program's files are not those of one package, or of one per stage.
    """
    packages = sorted(
        {file.path.partition("/Data/")[0] for file in program.files if _DATA in file.path}
    )
    stages = len(program.stages)
    by_stage = {
        int(found[1]): package
        for package in packages
        if (found := re.search(r"_stage_(\d+)\.mlpackage$", package))
    }
    if len(packages) == 1 and not by_stage:
        return [(packages[0], f"stage_{stage}") for stage in range(stages)]
    if sorted(by_stage) != list(range(stages)):
        raise BundleError(
            f"{program.name} has the packages {', '.join(packages)} for {stages} stages, expected "
            "one, or one for each stage; export it anew"
        )
    return [(by_stage[stage], None) for stage in range(stages)]


def check_program(
    program: ProgramEntry,
    folder: Path,
    compute_units: str,
    images: NDArray[np.uint8],
    recorded: NDArray[np.float32],
    open_stage: OpenStage,
) -> OnMac:
    """Run one program on some images and compare.

    Args:
        program: From the manifest.
        folder: Of the bundle.
        compute_units: As ``open_stage`` uses them; noted in the result.
        images: ``(images, height, width, 3)`` uint8.
        recorded: ``(exits, images, classes)`` float32 logits.
        open_stage: Loads a package's function.
    """
    stages = [open_stage(folder / path, function) for path, function in stage_places(program)]
    logits = np.empty_like(recorded)
    spent_ms: list[list[float]] = [[] for _ in stages]
    for number in range(-_WARM_UP_RUNS, len(images)):
        carry: list[NDArray[Any]] = [images[max(number, 0)][None].astype(np.float32)]
        for exit, (stage, entry) in enumerate(zip(stages, program.stages, strict=True)):
            names = [f"input_{position}" for position in range(len(carry))]
            inputs = dict(zip(names, carry, strict=True))
            began = time.perf_counter()
            outputs = stage.predict(inputs)
            if number >= 0:
                spent_ms[exit].append(1e3 * (time.perf_counter() - began))
            answer, *carry = _in_order(program.name, outputs, len(entry.outputs))
            if number >= 0:
                logits[exit, number] = answer.reshape(-1)
    return OnMac(
        program=program.name,
        compute_units=compute_units,
        images=len(images),
        label_agreement=tuple(
            float(np.mean(got.argmax(1) == expected.argmax(1)))
            for got, expected in zip(logits, recorded, strict=True)
        ),
        difference=tuple(
            float(np.abs(got - expected).max() / (np.abs(expected).max() or 1.0))
            for got, expected in zip(logits, recorded, strict=True)
        ),
        stage_ms=tuple(Latency(tuple(times)).median_ms for times in spent_ms),
    )


def _in_order(
    program: str, outputs: Mapping[str, NDArray[Any]], expected: int
) -> list[NDArray[Any]]:
    names = [f"output_{place}" for place in range(expected)]
    if set(outputs) != set(names):
        raise BundleError(
            f"a stage of {program} gave {', '.join(sorted(outputs))}, expected {', '.join(names)}; "
            "export it anew"
        )
    return [outputs[name] for name in names]


def main(arguments: Sequence[str] | None = None) -> int:
    """Check a bundle on this Mac; prints a table, and writes it down if asked."""
    parser = argparse.ArgumentParser(
        prog="python -m offramp_export.coreml_check",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("bundle", type=Path, help="a bundle's folder")
    parser.add_argument("--result", type=Path, help="a JSON file to write")
    asked = parser.parse_args(arguments)
    if sys.platform != "darwin":
        print(
            f"Core ML runs on macOS only, this is {platform.system()}; copy the bundle to a Mac "
            "and run this there",
            file=sys.stderr,
        )
        return 2
    try:
        found = _check_bundle(asked.bundle)
        for each in found:
            print(_line(each))
        if asked.result is not None:
            data = {
                "system": platform.platform(),
                "processor": platform.processor() or platform.machine(),
                "coremltools": require("coremltools").__version__,
                "results": [asdict(each) for each in found],
            }
            write_atomically(asked.result, json.dumps(data, indent=2).encode())
    except OfframpError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _check_bundle(path: Path) -> list[OnMac]:
    coremltools = require("coremltools")
    bundle = Bundle.open(path)
    vectors = bundle.vectors()
    programs = [each for each in bundle.manifest.programs if each.runtime == "coreml"]
    if not programs:
        raise BundleError(f"{path} has no Core ML program; export one with --target coreml/float16")

    if not path.is_dir():
        raise BundleError(f"{path} is a zip, and Core ML opens folders only; unpack it first")

    found = []
    for program in programs:
        for file in program.files:
            bundle.read(file)  # Core ML reads the files itself: their digests are checked before
        for units in COMPUTE_UNITS:

            def open_stage(package: Path, function: str | None, units: str = units) -> CoreMLStage:
                model: CoreMLStage = coremltools.models.MLModel(
                    str(package),
                    function_name=function,
                    compute_units=coremltools.ComputeUnit[units],
                )
                return model

            recorded = vectors.logits[program.name]
            found.append(check_program(program, path, units, vectors.images, recorded, open_stage))
    return found


def _line(found: OnMac) -> str:
    agreement = " ".join(f"{100 * share:.1f} %" for share in found.label_agreement)
    differences = " ".join(f"{difference:.1e}" for difference in found.difference)
    times = " ".join(f"{ms:.3f}" for ms in found.stage_ms)
    return (
        f"{found.program} on {found.compute_units}: labels {agreement}, logits off by "
        f"{differences}, stages {times} ms"
    )


if __name__ == "__main__":
    sys.exit(main())
