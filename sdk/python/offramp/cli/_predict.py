"""``offramp predict``."""

# ruff: noqa: TC001 - typer reads the annotations at run time
from __future__ import annotations

from typing import Annotated

import typer

from offramp.cli import console
from offramp.cli._options import BundleArgument, JsonOption, ProgramOption, ThreadsOption

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
    deadline_ms: Annotated[
        float | None,
        typer.Option(
            "--deadline-ms", help="Answer within so many milliseconds.", show_default=False
        ),
    ] = None,
    max_results: Annotated[
        int, typer.Option("--max-results", min=1, help="How many classes to list for each image.")
    ] = 1,
    as_json: JsonOption = False,
) -> None:
    """Classify images, stopping at the first exit that is sure enough."""
    if deadline_ms is not None and not deadline_ms > 0:
        raise typer.BadParameter(f"--deadline-ms must be above 0, got {deadline_ms}")
    from offramp.classifier import DynamicClassifier

    with DynamicClassifier.load(
        bundle, program=program, policy=policy, threads=threads
    ) as classifier:
        predictions = [
            classifier.predict(image, deadline_ms=deadline_ms, max_results=max_results)
            for image in images
        ]
    data = [
        {
            "image": image,
            "label": prediction.label,
            "index": prediction.index,
            "score": prediction.score,
            "exit": prediction.exit,
            "reason": prediction.reason,
            "stage_ms": prediction.stage_ms,
            "total_ms": prediction.total_ms,
            "categories": prediction.categories,
        }
        for image, prediction in zip(images, predictions, strict=True)
    ]

    def render() -> None:
        console.table(
            ("image", "label", "score", "exit", "reason", "ms"),
            [
                (
                    image if place == 0 else "",
                    category.label,
                    f"{category.score:.4f}",
                    prediction.exit if place == 0 else "",
                    prediction.reason if place == 0 else "",
                    f"{prediction.total_ms:.2f}" if place == 0 else "",
                )
                for image, prediction in zip(images, predictions, strict=True)
                for place, category in enumerate(prediction.categories)
            ],
        )

    console.emit(as_json, data, render)
