"""``offramp export``; torch and the converters are loaded when it runs."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import TYPE_CHECKING, Annotated, Any

import typer

from offramp.errors import DataError, ExportError

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


def export(
    source: Annotated[
        str,
        typer.Argument(help="MODULE:FACTORY; the factory returns the stages, first to last."),
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
            help="litert/float32, litert/int8, executorch/float32 or coreml/float16; repeatable. "
            "Without it: litert/float32."
        ),
    ] = None,
    factory_arg: Annotated[
        list[str] | None,
        typer.Option(help="KEY=VALUE, handed to the factory as text; repeatable."),
    ] = None,
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
    stages = _load_stages(source, factory_arg or [])

    from offramp_export._export import export as export_stages
    from offramp_export.targets import parse_target

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


def _load_stages(source: str, factory_args: Sequence[str]) -> Sequence[nn.Module]:
    module_name, separator, name = source.partition(":")
    if not (module_name and separator and name):
        raise typer.BadParameter(f"got {source!r}, expected MODULE:FACTORY, such as nets:build")
    arguments = dict(_split_argument(argument) for argument in factory_args)
    # A console script does not look for modules where it is started; `python` does.
    if "" not in sys.path:
        sys.path.insert(0, "")
    module = importlib.import_module(module_name)
    factory = getattr(module, name, None)
    if not callable(factory):
        raise ExportError(f"{module_name} has no function {name!r}; expected one that makes stages")
    stages = factory(**arguments)
    # A MultiStageNetwork, or anything that holds its stages like one.
    stages = getattr(stages, "stages", stages)
    try:
        return list(stages)
    except TypeError:
        raise ExportError(
            f"{source} returned {type(stages).__name__}, expected a sequence of stages"
        ) from None


def _split_argument(argument: str) -> tuple[str, str]:
    key, separator, value = argument.partition("=")
    if not (key.isidentifier() and separator):
        raise typer.BadParameter(f"got {argument!r}, expected KEY=VALUE")
    return key, value
