"""``offramp calibrate``."""

# ruff: noqa: TC003 - typer reads the annotations at run time
from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from offramp.cli import console
from offramp.cli._calibration_report import render
from offramp.cli._options import (
    BundleArgument,
    JsonOption,
    ProgramsOption,
    SignatureOption,
    ThreadsOption,
    TrustedCertificateOption,
    TrustedKeyOption,
    open_bundle,
    say_unsigned,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from offramp.bundle import Bundle
    from offramp.calibration import Promises

__all__ = ["calibrate"]

_FLOAT = "litert/float32"
_PROMISES = "Promises (without any: --limit 0.01)"
_SOURCES = "Images, or what was measured before"


def _promise(text: str) -> Any:
    return typer.Option(help=text, rich_help_panel=_PROMISES, show_default=False)


def _source(text: str, metavar: str) -> Any:
    return typer.Option(help=text, metavar=metavar, rich_help_panel=_SOURCES, show_default=False)


def calibrate(
    bundle: BundleArgument,
    data_folder: Annotated[
        Path | None,
        typer.Argument(
            metavar="[DATA_FOLDER]",
            help="Images, in one sub-folder per class named after its label.",
            show_default=False,
        ),
    ] = None,
    program: ProgramsOption = None,
    limit: Annotated[
        float | None,
        _promise("Largest drop of accuracy, as a fraction: 0.01 is one point."),
    ] = None,
    early_exit_limit: Annotated[
        float | None, _promise("The same among the images that leave early.")
    ] = None,
    class_limit: Annotated[float | None, _promise("The same in every single class.")] = None,
    disagreement: Annotated[
        float | None,
        _promise("Largest share of images answered unlike the reference; needs no labels."),
    ] = None,
    mean_ms: Annotated[
        float | None, _promise("Largest mean latency of the stages, in milliseconds.")
    ] = None,
    tail_ms: Annotated[
        float | None, _promise("Largest latency of all images but a few, in milliseconds.")
    ] = None,
    quantile: Annotated[
        float,
        typer.Option(help="All but how few: for --tail-ms.", rich_help_panel=_PROMISES),
    ] = 0.99,
    cap: Annotated[
        Literal["hard", "soft"],
        typer.Option(
            help="For --tail-ms: stages that could be late never run, or run for a few images.",
            rich_help_panel=_PROMISES,
        ),
    ] = "hard",
    selective_error: Annotated[
        float | None,
        _promise("Largest share of wrong answers among those given; unsure ones are withheld."),
    ] = None,
    confidence: Annotated[
        float,
        typer.Option(help="Probability that all promises hold.", rich_help_panel=_PROMISES),
    ] = 0.95,
    reference: Annotated[
        Literal["self", "float"],
        typer.Option(
            help="Count drops from the program's own last exit, or from that of "
            f"{_FLOAT} in the same bundle.",
            rich_help_panel=_PROMISES,
        ),
    ] = "self",
    signal: Annotated[
        Literal["max_probability", "margin", "entropy"],
        typer.Option(help="What is compared with the threshold."),
    ] = "max_probability",
    path: Annotated[
        Literal["shared", "cost_aware"],
        typer.Option(
            help="One threshold for all exits, or one price per millisecond saved.",
        ),
    ] = "shared",
    policy_name: Annotated[
        str, typer.Option("--policy-name", help="The name that predict --policy takes.")
    ] = "default",
    unlabelled: Annotated[
        bool,
        typer.Option(
            "--unlabelled",
            help="DATA_FOLDER holds images of unknown class; for --disagreement and latencies.",
            rich_help_panel=_SOURCES,
        ),
    ] = False,
    logits: Annotated[
        Path | None, _source("(exits, images, classes) instead of DATA_FOLDER.", "Z.npy")
    ] = None,
    labels: Annotated[Path | None, _source("(images,), for --logits.", "Y.npy")] = None,
    reference_logits: Annotated[
        Path | None,
        _source("(images, classes), for --logits with --reference float.", "F.npy"),
    ] = None,
    latency: Annotated[
        Path | None,
        _source(
            "What `offramp profile --json` printed, or a .npy of (stages, runs); without it the "
            "bundle's measurement.",
            "FILE",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the split and of the test's order.")] = 0,
    threads: ThreadsOption = 1,
    trusted_key: TrustedKeyOption = None,
    trusted_certificate: TrustedCertificateOption = None,
    signature: SignatureOption = None,
    as_json: JsonOption = False,
) -> None:
    """Choose when to stop, with certificates, and write it into the bundle.

    Runs the exported programs themselves on images that were not used for training or selection.
    Exits with 1 if a program cannot keep all promises together; nothing is relaxed.
    """
    from offramp import calibration
    from offramp.cli._calibration_data import Folder, load_array, pick_latency, run_program
    from offramp.errors import BundleError, DataError

    others = (early_exit_limit, class_limit, disagreement, mean_ms, tail_ms, selective_error)
    if limit is None and all(other is None for other in others):
        limit = 0.01
    promises = calibration.Promises(
        accuracy_drop=limit,
        early_exit_drop=early_exit_limit,
        class_drop=class_limit,
        disagreement=disagreement,
        mean_ms=mean_ms,
        tail_ms=tail_ms,
        quantile=quantile,
        cap=cap,
        selective_error=selective_error,
        reference=reference,
        confidence=confidence,
    )
    opened = open_bundle(bundle, trusted_key, trusted_certificate, signature)
    if not opened.path.is_dir():
        raise BundleError(f"{bundle} is a zip; unpack it into a folder to write a policy into it")
    names = _programs(opened, program)
    if (data_folder is None) == (logits is None):
        raise DataError("give either DATA_FOLDER or --logits")
    if logits is not None and len(names) != 1:
        raise DataError("--logits are of one program; say which with --program")
    needs_latency = bool(promises.needing_latency) or path == "cost_aware"
    times = {name: pick_latency(opened, name, latency) for name in names if needs_latency}
    of_program: dict[str, NDArray[Any]] = {}
    beside = None
    if logits is not None:
        of_program[names[0]] = load_array(logits)
        truth = None if labels is None else load_array(labels)
        beside = None if reference_logits is None else load_array(reference_logits)
        _announce(promises, opened, of_program[names[0]].shape[1:2], quiet=as_json)
    else:
        assert data_folder is not None
        needed = names if reference == "self" else list(dict.fromkeys([_FLOAT, *names]))
        for name in needed:
            opened.program(name)
        folder = Folder.open(data_folder, opened.manifest.labels, labelled=not unlabelled)
        truth = folder.labels
        # Minutes of running programs are not spent on a promise that so few images cannot carry.
        _announce(promises, opened, (len(folder.paths),), quiet=as_json)
        images = folder.load(opened.manifest.input)
        of_program = {name: run_program(opened, name, images, threads) for name in needed}
        beside = None if reference == "self" else of_program[_FLOAT][-1]
    reports = [
        calibration.calibrate(
            of_program[name],
            truth,
            program=name,
            promises=promises,
            latency=times.get(name),
            signal=signal,
            path=path,
            reference_logits=beside,
            seed=seed,
            name=policy_name,
        )
        for name in names
    ]
    for report in reports:
        if report.policy is not None:
            opened = opened.add_policy(report.policy)

    def show() -> None:
        render(reports, opened.manifest.labels)
        if any(report.policy is not None for report in reports):
            say_unsigned(opened, trusted_key, trusted_certificate)

    console.emit(as_json, reports, show)
    if not all(report.feasible for report in reports):
        raise typer.Exit(1)


def _programs(bundle: Bundle, asked: list[str] | None) -> list[str]:
    from offramp.errors import BundleError

    known = [entry.name for entry in bundle.manifest.programs if entry.runtime == "litert"]
    names = list(dict.fromkeys(asked or known))
    if not names:
        raise BundleError(f"{bundle.path} has no LiteRT program; only those can be calibrated here")
    for name in names:
        bundle.program(name)
    return names


def _announce(promises: Promises, bundle: Bundle, images: tuple[int, ...], *, quiet: bool) -> None:
    """Say how many images it takes, and stop here if there are fewer."""
    from offramp.calibration import images_needed, split_images

    count = images[0] if images else 0
    classes = len(bundle.manifest.labels)
    split_images(count, promises, classes=classes)
    if not quiet:
        needed = images_needed(promises, classes=classes)
        print(f"{count} images; to promise this takes {needed} at the very least.", flush=True)
