"""``offramp export``; torch and the converters are loaded when it runs."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import TYPE_CHECKING, Annotated, Any

import typer

from offramp.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from offramp.bundle import InputSpec
    from offramp_export.parity import Parity

__all__ = ["export"]

_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
_SHUFFLE_SEED = 0
_CALIBRATION_IMAGES = 200
_TRAINING_IMAGES = 20_000  # they are held in memory


def export(
    source: Annotated[
        str,
        typer.Option(
            "--from",
            help="MODULE:FACTORY; the factory returns the stages, first to last, or one network "
            "that is cut at its exits.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="The bundle to write.")],
    labels: Annotated[Path, typer.Option(help="Text file, one label per line, in class order.")],
    images: Annotated[
        Path, typer.Option(help="Folder of images, searched through, like those trained on.")
    ],
    size: Annotated[str, typer.Option(help="Input size, such as 224x224: height, then width.")],
    target: Annotated[
        list[str] | None,
        typer.Option(
            help="Such as litert/float32, litert/int8, executorch/float32 or "
            "coreml/float16@iOS16; repeatable. An unknown one lists all. Without it: "
            "litert/float32."
        ),
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="Safetensors file with the weights of all of it.")
    ] = None,
    exit_name: Annotated[
        list[str] | None,
        typer.Option(
            "--exit",
            help="Submodule whose result is an exit's logits, first to last; repeatable. Without "
            "it the network returns the logits of its exits.",
        ),
    ] = None,
    mean: Annotated[
        str | None,
        typer.Option(help="Of the normalisation of one network's images, such as 0.5,0.5,0.5."),
    ] = None,
    std: Annotated[str | None, typer.Option(help="Of the same, such as 0.25,0.25,0.25.")] = None,
    factory_arg: Annotated[
        list[str] | None,
        typer.Option(help="KEY=VALUE, handed to the factory as text; repeatable."),
    ] = None,
    fine_tune: Annotated[
        Path | None,
        typer.Option(
            help="Folder of training images; the stages are trained on them to stand int8 before "
            "they are exported. No labels are needed: every exit learns what it answered before."
        ),
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the images of --fine-tune.")] = 3,
    learning_rate: Annotated[
        float, typer.Option(help="Of --fine-tune, at the start; it falls to zero.")
    ] = 1e-3,
    vectors: Annotated[int, typer.Option(min=1, help="Test images kept in the bundle.")] = 16,
    overwrite: Annotated[bool, typer.Option(help="Replace a bundle that is there.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Export a multi-stage network into a bundle, and prove that every program agrees."""
    from offramp.bundle import InputSpec
    from offramp.cli import console

    names = _read_labels(labels)
    height, width = _parse_size(size)
    spec = InputSpec(height=height, width=width)
    pictures = _load_images(images, spec, vectors + _CALIBRATION_IMAGES)
    # Vectors that were not calibrated on, where there are images enough for both.
    example, rest = pictures[:vectors], pictures[vectors:]
    from offramp_export._source import load_stages

    stages = load_stages(
        source,
        factory_arg or [],
        weights=weights,
        exits=exit_name or [],
        normalisation=(mean, std),
        image_size=(height, width),
    )

    from offramp_export._export import export as export_stages
    from offramp_export.targets import parse_target

    if fine_tune is not None:
        stages = _fine_tune(stages, fine_tune, spec, epochs, learning_rate)
    targets = [parse_target(name) for name in target or ["litert/float32"]]
    with console.progress("Converting", len(targets)) as report:
        result = export_stages(
            stages,
            example,
            targets,
            path=out,
            labels=names,
            calibration_images=rest if len(rest) else None,
            input_spec=spec,
            overwrite=overwrite,
            progress=report,
        )
    data = {"bundle": str(out), "parity": result.parity}
    console.emit(json, data, lambda: _print(console, out, result.parity))


def _fine_tune(
    stages: Sequence[nn.Module], folder: Path, spec: InputSpec, epochs: int, learning_rate: float
) -> Sequence[nn.Module]:
    from offramp.cli import console
    from offramp_export.fine_tuning import FineTuning, fine_tune

    pictures = _load_images(folder, spec, _TRAINING_IMAGES)
    batch_size = min(FineTuning().batch_size, len(pictures))
    options = FineTuning(epochs=epochs, learning_rate=learning_rate, batch_size=batch_size)
    with console.progress("Fine-tuning", epochs) as report:
        return fine_tune(stages, pictures, options, progress=report)


def _print(console: Any, out: Path, parity: Sequence[Parity]) -> None:
    rows = [
        (
            report.program,
            exit,
            f"{found.difference:.1e}",
            f"{found.label_agreement:.1%}",
            f"{report.exit_agreement:.1%}",
        )
        for report in parity
        for exit, found in enumerate(report.exits)
    ]
    columns = ("program", "exit", "logit difference", "same label", "same exit")
    console.table(columns, rows, title=f"{out}, against torch")


def _read_labels(path: Path) -> list[str]:
    names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    names = [name for name in names if name]
    if not names:
        raise DataError(f"{path} holds no labels; write one per line, in class order")
    return names


def _parse_size(size: str) -> tuple[int, int]:
    height, _, width = size.partition("x")
    if not (height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise typer.BadParameter(f"got {size!r}, expected HEIGHTxWIDTH, such as 224x224")
    return int(height), int(width)


def _load_images(folder: Path, spec: InputSpec, most: int) -> NDArray[np.uint8]:
    import numpy as np

    from offramp.images import load_image

    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES)
    if not paths:
        raise DataError(f"no images in {folder}; expected {', '.join(sorted(_SUFFIXES))} files")
    order = np.random.default_rng(_SHUFFLE_SEED).permutation(len(paths))[:most]
    return np.stack([load_image(paths[index], spec) for index in order])
