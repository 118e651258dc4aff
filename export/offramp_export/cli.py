"""``offramp export``; torch and the converters are loaded when it runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import TYPE_CHECKING, Annotated

import typer

from offramp.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from offramp.bundle import InputSpec, Policy
    from offramp_export.targets import Target

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
            "coreml/float16@iOS16; for LiteRT also one precision per stage, as in "
            "litert/float32,int8,int8; repeatable. An unknown one lists all. Without it: "
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
    ] = 1e-4,
    delegated_share: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=1.0,
            help="Fail if XNNPACK takes a smaller share than this of the operators of any stage of "
            "a LiteRT or ExecuTorch program, such as 0.95. Core ML is not judged: it decides on "
            "the device.",
        ),
    ] = None,
    policy: Annotated[
        Path | None,
        typer.Option(
            help="JSON file of a policy, as in a bundle's manifest: also compare where images "
            "leave under it."
        ),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(help="Also write what is printed, and more, to this JSON file."),
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
    chosen_targets = _targets(target or ["litert/float32"], delegated_share)
    chosen_policy = None if policy is None else _read_policy(policy)
    if report is not None and not report.parent.is_dir():
        raise DataError(f"--report: there is no folder {report.parent}; make it first")
    paths = _choose_images(images, vectors + _CALIBRATION_IMAGES)
    pictures = _load_images(paths, spec)
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
    from offramp_export._tables import print_report
    from offramp_export.report import write_report

    if fine_tune is not None:
        stages = _fine_tune(stages, fine_tune, spec, epochs, learning_rate)
    with console.progress("Converting", len(chosen_targets)) as advance:
        result = export_stages(
            stages,
            example,
            chosen_targets,
            path=out,
            labels=names,
            calibration_images=rest if len(rest) else None,
            input_spec=spec,
            example_labels=_classes(paths[:vectors], names),
            policy=chosen_policy,
            overwrite=overwrite,
            progress=advance,
        )
    if report is not None:
        write_report(report, result.report)
    data = {"bundle": str(out), "parity": result.parity, "report": result.report.as_data()}
    console.emit(json, data, lambda: print_report(result.report, str(out)))


def _fine_tune(
    stages: Sequence[nn.Module], folder: Path, spec: InputSpec, epochs: int, learning_rate: float
) -> Sequence[nn.Module]:
    from offramp.cli import console
    from offramp_export.fine_tuning import FineTuning, fine_tune

    pictures = _load_images(_choose_images(folder, _TRAINING_IMAGES), spec)
    batch_size = min(FineTuning().batch_size, len(pictures))
    options = FineTuning(epochs=epochs, learning_rate=learning_rate, batch_size=batch_size)
    with console.progress("Fine-tuning", epochs) as advance:
        return fine_tune(stages, pictures, options, progress=advance)


def _targets(names: Sequence[str], delegated_share: float | None) -> list[Target]:
    from offramp_export.targets import ExecuTorch, LiteRT, parse_target

    targets = [parse_target(name) for name in names]
    if delegated_share is None:
        return targets
    if not any(isinstance(target, LiteRT | ExecuTorch) for target in targets):
        raise typer.BadParameter(
            "--delegated-share judges LiteRT and ExecuTorch, and none of the targets is one; "
            "Core ML decides on the device what runs where"
        )
    return [
        replace(target, delegated_share=delegated_share)
        if isinstance(target, LiteRT | ExecuTorch)
        else target
        for target in targets
    ]


def _read_policy(path: Path) -> Policy:
    import msgspec

    from offramp.bundle import Policy

    try:
        return msgspec.json.decode(path.read_bytes(), type=Policy)
    except (OSError, msgspec.DecodeError) as error:
        raise DataError(
            f"{path} is not a policy ({error}); expected JSON such as one entry of policies in a "
            "bundle's manifest"
        ) from error


def _classes(paths: Sequence[Path], names: Sequence[str]) -> NDArray[np.int64] | None:
    """The class of each image, if each lies in a folder that is called after one."""
    import numpy as np

    folders = [path.parent.name for path in paths]
    if not set(folders) <= set(names):
        return None
    return np.array([names.index(folder) for folder in folders], np.int64)


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


def _choose_images(folder: Path, most: int) -> list[Path]:
    import numpy as np

    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES)
    if not paths:
        raise DataError(f"no images in {folder}; expected {', '.join(sorted(_SUFFIXES))} files")
    order = np.random.default_rng(_SHUFFLE_SEED).permutation(len(paths))[:most]
    return [paths[index] for index in order]


def _load_images(paths: Sequence[Path], spec: InputSpec) -> NDArray[np.uint8]:
    import numpy as np

    from offramp.images import load_image

    return np.stack([load_image(path, spec) for path in paths])
