"""``offramp predict``."""

# ruff: noqa: TC003 - typer reads the annotations at run time
from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from offramp.cli import console
from offramp.cli._options import (
    BundleArgument,
    JsonOption,
    ProgramOption,
    SignatureOption,
    ThreadsOption,
    TrustedCertificateOption,
    TrustedKeyOption,
    WorkersOption,
    open_bundle,
)

if TYPE_CHECKING:
    from offramp.bundle import Bundle
    from offramp.classifier import Prediction
    from offramp.monitoring import Monitor

__all__ = ["predict"]


def predict(
    bundle: BundleArgument,
    images: Annotated[
        list[str],
        typer.Argument(metavar="IMAGE", help="Image files.", show_default=False),
    ],
    program: ProgramOption = None,
    policy: Annotated[
        str | None,
        typer.Option(
            help="Which policy; 'last' runs every image to the last exit. "
            "Without it the one named default, or the only one.",
            show_default=False,
        ),
    ] = None,
    threads: ThreadsOption = 1,
    workers: WorkersOption = 1,
    deadline_ms: Annotated[
        float | None,
        typer.Option(
            "--deadline-ms",
            metavar="MS",
            help="Answer within so many milliseconds; refused if stage 0 alone takes longer here.",
            show_default=False,
        ),
    ] = None,
    top: Annotated[
        int, typer.Option("--top", min=1, help="How many classes to list for each image.")
    ] = 1,
    score_threshold: Annotated[
        float, typer.Option("--min-score", help="List no classes of a smaller score.")
    ] = 0.0,
    allow: Annotated[
        list[str] | None,
        typer.Option(
            "--allow",
            metavar="LABEL",
            help="List only this class; may be given several times.",
            show_default=False,
        ),
    ] = None,
    deny: Annotated[
        list[str] | None,
        typer.Option(
            "--deny",
            metavar="LABEL",
            help="Do not list this class; may be given several times.",
            show_default=False,
        ),
    ] = None,
    region: Annotated[
        str | None,
        typer.Option(
            "--roi",
            metavar="LEFT,TOP,RIGHT,BOTTOM",
            help="The part of each image to look at, as fractions of its width and height.",
            show_default=False,
        ),
    ] = None,
    rotation_degrees: Annotated[
        int,
        typer.Option(
            "--rotate",
            metavar="DEGREES",
            help="Turn each image, or the part, clockwise by a multiple of 90.",
        ),
    ] = 0,
    monitor_file: Annotated[
        Path | None,
        typer.Option(
            "--monitor",
            metavar="FILE",
            help="Add what was counted to this file; see offramp monitor.",
            show_default=False,
        ),
    ] = None,
    trusted_key: TrustedKeyOption = None,
    trusted_certificate: TrustedCertificateOption = None,
    signature: SignatureOption = None,
    as_json: JsonOption = False,
) -> None:
    """Classify images, stopping at the first exit that is sure enough."""
    if deadline_ms is not None and not deadline_ms > 0:
        raise typer.BadParameter(f"--deadline-ms must be above 0, got {deadline_ms}")
    from offramp.classifier import DynamicClassifier
    from offramp.errors import ImageFailedError

    opened = open_bundle(bundle, trusted_key, trusted_certificate, signature)
    monitor = None if monitor_file is None else _monitor(opened, program, monitor_file)
    with DynamicClassifier.load(
        opened,
        program=program,
        policy=policy,
        threads=threads,
        workers=min(workers, len(images)),
        deadline_ms=deadline_ms,
        monitor=monitor,
    ) as classifier:
        try:
            found = classifier.predict_many(
                images,
                max_results=top,
                score_threshold=score_threshold,
                category_allowlist=allow or None,
                category_denylist=deny or None,
                region_of_interest=None if region is None else _region(region),
                rotation_degrees=rotation_degrees,
            )
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error
        predictions: list[Prediction] = []
        with console.progress("Predicting", len(images)) as report:
            try:
                for prediction in found:
                    predictions.append(prediction)
                    report(len(predictions), None)
            except ImageFailedError as error:
                # It names the file, which says more than a number.
                raise error.__cause__ or error from None
    if monitor is not None and monitor_file is not None:
        _save(monitor, monitor_file)
    data = [
        {
            "image": image,
            "label": prediction.label,
            "index": prediction.index,
            "score": prediction.score,
            "abstained": prediction.abstained,
            "exit": prediction.exit,
            "reason": prediction.reason,
            "policy": prediction.policy,
            "stage_ms": prediction.stage_ms,
            "total_ms": prediction.total_ms,
            "categories": prediction.categories,
        }
        for image, prediction in zip(images, predictions, strict=True)
    ]
    console.emit(as_json, data, lambda: _render(images, predictions))


def _monitor(bundle: Bundle, program: str | None, file: Path) -> Monitor:
    """One that goes on where the file ends, if there is one."""
    from offramp.monitoring import Monitor, decode_state

    monitor = Monitor.for_bundle(bundle, program)
    if file.exists():
        monitor.restore(decode_state(file.read_bytes(), str(file)))
    return monitor


def _save(monitor: Monitor, file: Path) -> None:
    from offramp._files import write_atomically
    from offramp.monitoring import encode_state

    write_atomically(file, encode_state(monitor.state()))


def _region(text: str) -> tuple[float, float, float, float]:
    try:
        left, top, right, bottom = map(float, text.split(","))
    except ValueError:
        raise typer.BadParameter(
            f"--roi is {text!r}, expected four numbers like 0.1,0.1,0.9,0.9"
        ) from None
    return left, top, right, bottom


def _render(images: list[str], predictions: list[Prediction]) -> None:
    rows: list[tuple[object, ...]] = []
    for image, prediction in zip(images, predictions, strict=True):
        end = (prediction.exit, prediction.reason, f"{prediction.total_ms:.2f}")
        # An image whose answer is withheld, or whose classes are not listed, has a line too.
        listed = [(category.label, f"{category.score:.4f}") for category in prediction.categories]
        first, *others = listed or [("(withheld)" if prediction.abstained else "(none)", "")]
        rows.append((image, *first, *end))
        rows.extend(("", *other, "", "", "") for other in others)
    console.table(("image", "label", "score", "exit", "reason", "ms"), rows)
