"""Where ``calibrate`` and ``verify`` take images, logits and latencies from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

from offramp.cli import console

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from offramp.bundle import Bundle, InputSpec, LatencyEntry

__all__ = ["Folder", "load_array", "pick_latency", "run_program"]

_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})


@final
@dataclass(frozen=True, slots=True, eq=False)
class Folder:
    """Images to run programs on.

    Attributes:
        paths: The files.
        labels: ``(images,)`` int64; ``None`` if they are not known.
    """

    paths: tuple[Path, ...]
    labels: NDArray[Any] | None

    @classmethod
    def open(cls, folder: Path, classes: tuple[str, ...], *, labelled: bool) -> Folder:
        """List a folder; no image is read yet.

        Args:
            folder: With one sub-folder per class; without labels, with images at any depth.
            classes: The labels of the bundle.
            labelled: Whether the sub-folders name the classes.

        Raises:
            DataError: There is no such folder, or nothing to use in it.
        """
        from offramp.errors import DataError
        from offramp.images import LabelledFolder

        if labelled:
            found = LabelledFolder.open(folder, classes)
            return cls(found.paths, found.labels)
        if not folder.is_dir():
            raise DataError(f"no folder at {folder}; expected one with images")
        paths = tuple(
            path
            for path in sorted(folder.rglob("*"))
            if path.is_file() and path.suffix.lower() in _SUFFIXES
        )
        if not paths:
            raise DataError(f"no images below {folder}; expected {', '.join(sorted(_SUFFIXES))}")
        return cls(paths, None)

    def load(self, spec: InputSpec) -> NDArray[Any]:
        """Decode and resize all images, with a progress bar."""
        import numpy as np

        from offramp.images import load_image

        result = np.empty((len(self.paths), spec.height, spec.width, 3), np.uint8)
        with console.progress("Reading images", len(self.paths)) as report:
            for number, path in enumerate(self.paths):
                result[number] = load_image(path, spec)
                report(number + 1, None)
        return result


def run_program(bundle: Bundle, name: str, images: NDArray[Any], threads: int) -> NDArray[Any]:
    """Logits of every exit of a program, with a progress bar."""
    from offramp.profiling import collect_logits
    from offramp.runtimes import open_runtime

    with (
        open_runtime(bundle, name, threads=threads) as runtime,
        console.progress(f"Running {name}", len(images)) as report,
    ):
        return collect_logits(runtime, images, report)


def load_array(path: Path) -> NDArray[Any]:
    """Read an array that numpy saved; never a pickle.

    Raises:
        DataError: It is no such file.
    """
    import numpy as np

    from offramp.errors import DataError

    try:
        loaded = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} is no array saved by numpy ({error}); give a .npy file") from error
    if not isinstance(loaded, np.ndarray):
        loaded.close()
        raise DataError(f"{path} holds several arrays; give a .npy file with one")
    return loaded


def pick_latency(bundle: Bundle, program: str, file: Path | None) -> LatencyEntry | NDArray[Any]:
    """The latency to promise by.

    Args:
        bundle: May hold measurements.
        program: The program.
        file: What ``offramp profile --json`` printed, or ``(stages, runs)`` milliseconds saved by
            numpy; ``None`` takes the bundle's measurement on this device, or its only one.

    Raises:
        DataError: The file is neither.
        BundleError: The bundle has no measurement to take, or several.
    """
    import msgspec

    from offramp.bundle import LatencyEntry
    from offramp.errors import BundleError, DataError
    from offramp.profiling import device_record
    from offramp.runtimes import describe_runtime

    if file is not None:
        if file.suffix == ".npy":
            return load_array(file)
        try:
            read = msgspec.json.decode(file.read_bytes(), type=_Profile)
        except msgspec.MsgspecError as error:
            raise DataError(
                f"{file} is not what `offramp profile --json` prints ({error})"
            ) from error
        return LatencyEntry(
            program=read.program,
            device=read.device,
            threads=read.threads,
            stage_samples_ms=tuple(stage.samples_ms for stage in read.stages),
            warmup_runs=0,
            measured_at=read.measured_at,
        )
    entries = [entry for entry in bundle.manifest.latencies if entry.program == program]
    here = device_record(describe_runtime(bundle.program(program)))
    local = [entry for entry in entries if entry.device == here]
    chosen = local[:1] or entries
    if len(chosen) == 1:
        return chosen[0]
    found = "no measurement" if not chosen else f"{len(chosen)} measurements, none of this device,"
    raise BundleError(
        f"{bundle.path} has {found} of the latency of {program}; measure it with `offramp profile "
        f"--save --runs 1000 --program {program}`, or give one with --latency"
    )


@dataclass(frozen=True)
class _Stage:
    samples_ms: tuple[float, ...]


@dataclass(frozen=True)
class _Profile:
    program: str
    device: dict[str, str]
    threads: int
    measured_at: str
    stages: tuple[_Stage, ...]
