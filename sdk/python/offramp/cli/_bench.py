"""``offramp bench``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, final

import typer

from offramp.cli import console
from offramp.cli._latencies import milliseconds, p90_ms
from offramp.cli._options import (
    BundleArgument,
    DataArgument,
    JsonOption,
    ProgramsOption,
    SignatureOption,
    ThreadsOption,
    TrustedCertificateOption,
    TrustedKeyOption,
    WorkersOption,
    open_bundle,
)

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from offramp.bundle import Bundle, InputSpec
    from offramp.latency import Latency

__all__ = ["bench"]

# Both ways take turns after so many images, so that a slow minute of the device is felt by both.
_TURN = 32


@final
@dataclass(frozen=True, slots=True)
class _Result:
    """One program, stopping early and not, over the same images.

    With a deadline: the shares of the early answers that it cut short, and that came in time. With
    several workers: images per second, stopping early, by the number of workers.
    """

    program: str
    policy: str
    images: int
    early: dict[str, float | None]
    last: dict[str, float | None]
    ratio_of_means: float
    exit_shares: list[float]
    accuracy: float | None
    last_accuracy: float | None
    cut_short: float | None
    in_time: float | None
    images_per_second: dict[int, float] | None


def bench(
    bundle: BundleArgument,
    data_folder: DataArgument,
    program: ProgramsOption = None,
    policy: Annotated[
        str | None, typer.Option(help="Which policy; 'default' without it.", show_default=False)
    ] = None,
    threads: ThreadsOption = 1,
    workers: WorkersOption = 1,
    deadline_ms: Annotated[
        float | None,
        typer.Option(
            "--deadline-ms",
            metavar="MS",
            help="Stop early within so many milliseconds; refused if stage 0 alone takes longer.",
            show_default=False,
        ),
    ] = None,
    trusted_key: TrustedKeyOption = None,
    trusted_certificate: TrustedCertificateOption = None,
    signature: SignatureOption = None,
    as_json: JsonOption = False,
) -> None:
    """Time predictions that really stop early against running every image to the last exit.

    Wall-clock, one image at a time, decoding left out; with several workers also how many images
    are done in a second, several at a time. Images that lie in the folder itself, and
    not in a sub-folder per class, have no label: then no accuracy is shown.
    """
    if deadline_ms is not None and not deadline_ms > 0:
        raise typer.BadParameter(f"--deadline-ms must be above 0, got {deadline_ms}")
    from offramp.errors import BundleError

    opened = open_bundle(bundle, trusted_key, trusted_certificate, signature)
    known = [entry.name for entry in opened.manifest.programs if entry.runtime == "litert"]
    names = list(dict.fromkeys(program or known))
    if not names:
        raise BundleError(f"{bundle} has no LiteRT program; only those can be measured here")
    # Say what is missing before anything is measured.
    policies = {name: opened.policy(opened.program(name).name, policy).name for name in names}
    images, labels = _images(data_folder, opened.manifest.input, opened.manifest.labels)
    results = [
        _measure(
            opened,
            name,
            policies[name],
            images,
            labels,
            threads=threads,
            workers=workers,
            deadline_ms=deadline_ms,
        )
        for name in names
    ]
    console.emit(as_json, results, lambda: _render(results, deadline_ms))


def _images(
    folder: Path, spec: InputSpec, names: tuple[str, ...]
) -> tuple[NDArray[Any], NDArray[Any] | None]:
    import numpy as np

    from offramp.errors import DataError
    from offramp.images import LabelledFolder, load_image

    if not folder.is_dir():
        raise DataError(f"no folder at {folder}; expected images in it")
    found = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    if any(path.is_dir() for path in found):
        labelled = LabelledFolder.open(folder, names)
        with console.progress("Reading images", len(labelled.paths)) as report:
            return labelled.load(spec, report), labelled.labels
    if not found:
        raise DataError(f"no images in {folder}")
    with console.progress("Reading images", len(found)) as report:
        images = []
        for path in found:
            images.append(load_image(path, spec))
            report(len(images), None)
    return np.stack(images), None


def _measure(
    bundle: Bundle,
    program: str,
    policy: str,
    images: NDArray[Any],
    labels: NDArray[Any] | None,
    *,
    threads: int,
    workers: int,
    deadline_ms: float | None,
) -> _Result:
    import numpy as np

    from offramp.classifier import DynamicClassifier
    from offramp.latency import Latency
    from offramp.profiling import measure_predictions, measure_throughput

    times: tuple[list[float], list[float]] = ([], [])
    answers: tuple[list[NDArray[Any]], list[NDArray[Any]]] = ([], [])
    exits: list[NDArray[Any]] = []
    hurried: list[NDArray[Any]] = []
    with (
        DynamicClassifier.load(
            bundle,
            program=program,
            policy=policy,
            threads=threads,
            workers=workers,
            deadline_ms=deadline_ms,
        ) as early,
        DynamicClassifier.load(bundle, program=program, policy="last", threads=threads) as last,
        console.progress(f"Timing {program}", len(images)) as report,
    ):
        for start in range(0, len(images), _TURN):
            turn = images[start : start + _TURN]
            ways = [(0, early), (1, last)]
            # Neither way is always the one that finds the images in the cache.
            for way, classifier in ways if start // _TURN % 2 == 0 else reversed(ways):
                # Each turn warms up anew: the other way has used the caches in between.
                measured = measure_predictions(classifier, turn, warmup_runs=2)
                times[way].extend(measured.latency.samples_ms)
                answers[way].append(measured.indices)
                if way == 0:
                    exits.append(measured.exits)
                    hurried.append(measured.hurried)
            report(start + len(turn), None)
        rates = measure_throughput(early, images) if workers > 1 else None
    early_latency, last_latency = (Latency(tuple(taken)) for taken in times)
    counts = np.bincount(np.concatenate(exits), minlength=len(bundle.manifest.stages))
    right = (
        (None, None)
        if labels is None
        else tuple(float((np.concatenate(given) == labels).mean()) for given in answers)
    )
    return _Result(
        program=program,
        policy=policy,
        images=len(images),
        early=_summary(early_latency),
        last=_summary(last_latency),
        ratio_of_means=early_latency.mean_ms / last_latency.mean_ms,
        exit_shares=[float(count) / len(images) for count in counts],
        accuracy=right[0],
        last_accuracy=right[1],
        cut_short=None if deadline_ms is None else float(np.concatenate(hurried).mean()),
        in_time=(
            None if deadline_ms is None else float((np.array(times[0]) <= deadline_ms).mean())
        ),
        images_per_second=rates,
    )


def _summary(latency: Latency) -> dict[str, float | None]:
    return {
        "mean_ms": latency.mean_ms,
        "median_ms": latency.median_ms,
        "p90_ms": p90_ms(latency),
    }


def _render(results: list[_Result], deadline_ms: float | None) -> None:
    rows = []
    for result in results:
        for way, times, accuracy in (
            (f"policy {result.policy}", result.early, result.accuracy),
            ("last exit always", result.last, result.last_accuracy),
        ):
            early = times is result.early
            rows.append(
                (
                    result.program if early else "",
                    way,
                    milliseconds(times["mean_ms"]),
                    milliseconds(times["median_ms"]),
                    milliseconds(times["p90_ms"]),
                    f"{result.ratio_of_means:.3f}" if early else "1.000",
                    "-" if accuracy is None else f"{accuracy:.2%}",
                    " ".join(f"{share:.1%}" for share in result.exit_shares) if early else "",
                )
            )
    console.table(
        (
            "program",
            "stopping",
            "mean ms",
            "median ms",
            "p90 ms",
            "mean ratio",
            "accuracy",
            "images per exit",
        ),
        rows,
        title=f"{results[0].images} images, one at a time",
    )
    for result in results:
        if result.in_time is not None and result.cut_short is not None:
            print(
                f"{result.program}: {result.in_time:.1%} answered within {deadline_ms:g} ms, "
                f"{result.cut_short:.1%} at an exit that the deadline chose"
            )
        if result.images_per_second is not None:
            alone = result.images_per_second[1]
            for workers, rate in result.images_per_second.items():
                print(
                    f"{result.program}: {rate:.0f} images/s with {workers} "
                    f"worker{'s' if workers > 1 else ''}, {rate / alone:.2f} of one"
                )
