"""From stages to a bundle, proven on the way."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, final

import numpy as np
import torch

from offramp.bundle import (
    Bundle,
    InputSpec,
    Manifest,
    ProgramEntry,
    Provenance,
    StageEntry,
    describe_file,
    encode_vectors,
    write_bundle,
)
from offramp.errors import (
    BundleError,
    ConversionError,
    ExportError,
    ExportMismatchError,
    ShapeError,
)
from offramp_export._edges import channel_last, prepare_stages, run_stages, trace_edges
from offramp_export._mismatch import name_layer
from offramp_export._refusal import name_operator
from offramp_export._run import run_program
from offramp_export.card import Card
from offramp_export.counting import count
from offramp_export.parity import Parity, check_given, compare, require_agreement
from offramp_export.report import ExportReport, ProgramReport, StageReport

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray
    from torch import nn

    from offramp.bundle import Policy
    from offramp_export._edges import Edges
    from offramp_export.targets import Target

__all__ = ["ExportResult", "export"]

_BATCH = 64
_CULPRIT_IMAGES = 3


@final
@dataclass(frozen=True, slots=True)
class ExportResult:
    """A bundle, and what was found out about its programs.

    Attributes:
        bundle: What was written.
        report: The same comparison, and what every stage of every program takes.
    """

    bundle: Bundle
    report: ExportReport

    @property
    def parity(self) -> tuple[Parity, ...]:
        """How each program compares with torch, one entry per target, in order."""
        return tuple(program.parity for program in self.report.programs)


def export(
    stages: Sequence[nn.Module],
    example: NDArray[np.uint8],
    targets: Sequence[Target],
    *,
    path: Path,
    labels: Sequence[str],
    calibration_images: NDArray[np.uint8] | None = None,
    input_spec: InputSpec | None = None,
    example_labels: NDArray[np.int64] | None = None,
    policy: Policy | None = None,
    provenance: Provenance | None = None,
    overwrite: bool = False,
    find_layer: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> ExportResult:
    """Export a multi-stage network to every target, prove each program, and write the bundle.

    Every program is run through its real runtime on the example images and compared with torch;
    its logits are recorded in the bundle, so that any other machine can compare too. Nothing is
    written unless all programs agree.

    Args:
        stages: ``stage(*carry) -> (logits, *next_carry)``, first to last; see
            ``MultiStageNetwork``. Any torch modules will do. They are copied, not changed.
        example: ``(images, height, width, 3)`` uint8 test images, RGB; their size is the
            network's input size.
        targets: What to convert to, such as ``[LiteRT(), LiteRT("int8")]``.
        path: The bundle's folder.
        labels: One per class, in the order of the logits.
        calibration_images: ``(images, height, width, 3)`` uint8, 100 to 300 from the training data,
            for targets that quantise.
        input_spec: How an image becomes an input; by default its middle, scaled.
        example_labels: ``(images,)``, the true class of each example image; for accuracies in the
            report.
        policy: Where images leave under it is compared and reported, for every program.
        provenance: Where the network comes from.
        overwrite: Replace a bundle that is there.
        find_layer: Where a converter refuses the stages, or a program does not answer as torch
            does, search for the operator that is refused or the first layer that departs, and name
            it in the error. That converts parts of the network some ten times again.
        progress: Called with (programs done, programs in all).

    Raises:
        ShapeError: The images have another shape or dtype.
        ExportError: The stages do not fit together, or a target refused them, or its runtime could
            not run what it made of them.
        ConversionError: A converter refused an operator; names it and its layer.
        ExportMismatchError: A program does not answer as torch does; names the first layer that
            departs.
        BundleError: The path exists.
        DataError: The labels or the policy do not fit the network.
    """
    path = Path(path)
    _check_images(example, "example")
    if calibration_images is not None:
        _check_images(calibration_images, "calibration_images", example.shape[1:3])
    names = _check_targets(targets)
    height, width = example.shape[1:3]
    spec = input_spec or InputSpec(height=height, width=width)
    if (spec.height, spec.width) != (height, width):
        raise ShapeError(
            f"input_spec asks for {spec.height}×{spec.width} images and example has "
            f"{height}×{width}; make them equal"
        )
    if path.exists() and not overwrite:
        raise BundleError(f"{path} exists; choose another path, or pass overwrite=True")

    prepared = prepare_stages(stages)
    edges = trace_edges(prepared, height, width)
    if len(labels) != edges.num_classes:
        raise ExportError(
            f"got {len(labels)} labels for {edges.num_classes} classes; give one label per class"
        )
    check_given(example_labels, policy, (len(prepared), len(example), edges.num_classes))
    reference = _reference(prepared, example)

    offramp_version = version("offramp")
    provenance = provenance or Provenance(created_by=f"offramp {offramp_version}")
    card = Card.make(tuple(labels), len(prepared), provenance.created_by, offramp_version, spec)
    files: dict[str, bytes] = {}
    entries, reports, logits = [], [], {}
    for done, (name, target) in enumerate(zip(names, targets, strict=True)):
        if progress is not None:
            progress(done, len(targets))
        try:
            program = target.convert(prepared, edges.carries, calibration_images)
        except ConversionError as error:
            if not find_layer:
                raise
            raise name_operator(
                error, prepared, target, (height, width), calibration_images
            ) from error
        program = target.describe(program, card)
        logits[name] = run_program(target, program, example)
        parity = compare(
            name,
            logits[name],
            reference,
            tolerance=target.tolerance,
            labels=example_labels,
            policy=policy,
        )
        try:
            require_agreement(parity)
        except ExportMismatchError as error:
            if not find_layer:
                raise
            off = np.abs(logits[name] - reference)[error.exit].max(axis=-1)
            chosen = example[np.argsort(-off, kind="stable")[:_CULPRIT_IMAGES]]
            raise name_layer(error, prepared, target, chosen, calibration_images) from error
        reports.append(
            ProgramReport(
                program=name,
                size_bytes=sum(map(len, program.files.values())),
                exporter=program.exporter,
                parity=parity,
                stages=target.footprint(program),
            )
        )
        files |= program.files
        precision = target.precision
        entries.append(
            ProgramEntry(
                runtime=target.runtime,
                precision=precision if isinstance(precision, str) else "mixed",
                stage_precisions=() if isinstance(precision, str) else precision,
                files=tuple(describe_file(*item) for item in program.files.items()),
                stages=program.stages,
                exporter=dict(program.exporter),
            )
        )
    files["vectors.npz"] = encode_vectors(example, logits)
    stage_entries = _stage_entries(prepared, edges)
    manifest = Manifest(
        format_version=1,
        labels=tuple(labels),
        input=spec,
        stages=stage_entries,
        programs=tuple(entries),
        vectors=describe_file("vectors.npz", files["vectors.npz"]),
        provenance=provenance,
    )
    bundle = write_bundle(path, manifest, files, overwrite=overwrite)
    if progress is not None:
        progress(len(targets), len(targets))
    report = ExportReport(
        created_by=provenance.created_by,
        input_size=(height, width),
        stages=tuple(
            StageReport(entry.name, entry.multiply_adds, entry.parameters)
            for entry in stage_entries
        ),
        programs=tuple(reports),
    )
    return ExportResult(bundle, report)


def _check_images(
    images: NDArray[np.uint8], name: str, size: tuple[int, ...] | None = None
) -> None:
    wanted = "height, width" if size is None else ", ".join(map(str, size))
    if (
        images.ndim != 4
        or images.shape[3] != 3
        or images.dtype != np.uint8
        or not len(images)
        or (size is not None and images.shape[1:3] != size)
    ):
        raise ShapeError(
            f"{name} is {images.dtype} {images.shape}, expected uint8 (images, {wanted}, 3) with "
            "at least one image"
        )


def _check_targets(targets: Sequence[Target]) -> list[str]:
    names = [target.name for target in targets]
    if not names:
        raise ExportError("there are no targets; pass at least one, such as LiteRT()")
    for name in names:
        if names.count(name) > 1:
            raise ExportError(f"the target {name} is given twice; each may be given once")
    return names


def _reference(stages: Sequence[nn.Module], images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Logits of every exit in torch, ``(exits, images, classes)``."""
    parts = []
    for start in range(0, len(images), _BATCH):
        batch = torch.from_numpy(images[start : start + _BATCH].astype(np.float32))
        outputs = run_stages(stages, batch)
        parts.append(np.stack([output[0].numpy() for output in outputs]))
    return np.concatenate(parts, axis=1).astype(np.float32)


def _stage_entries(stages: Sequence[nn.Module], edges: Edges) -> tuple[StageEntry, ...]:
    entries = []
    handed_on = (*edges.carries[1:], ())
    for index, stage in enumerate(stages):
        counted = count(stage, edges.carries[index])
        entries.append(
            StageEntry(
                name=f"stage_{index}",
                multiply_adds=counted.multiply_adds,
                parameters=counted.parameters,
                carry_shapes=tuple(channel_last(shape) for shape in handed_on[index]),
            )
        )
    return tuple(entries)
