"""The manifest of a bundle, version 1: what it may hold, and nothing else.

The structs here are the schema: they are strict (an unknown key is an error), frozen, and checked
once more for what types cannot say in ``_checks.py``.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

__all__ = [
    "Certificate",
    "CertificateKind",
    "FileEntry",
    "InputSpec",
    "LatencyEntry",
    "Manifest",
    "Policy",
    "Precision",
    "ProgramEntry",
    "ProgramStage",
    "Provenance",
    "Quantization",
    "StageEntry",
    "TensorEntry",
]

Count = Annotated[int, Meta(ge=1)]
Unsigned = Annotated[int, Meta(ge=0)]
Unit = Annotated[float, Meta(ge=0.0, le=1.0)]
Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
Name = Annotated[str, Meta(min_length=1, max_length=200)]
Milliseconds = Annotated[float, Meta(ge=0.0)]
Precision = Literal[
    "float32",
    "float16",
    "int8",
    "int16x8",
    "dynamic_int8",
    "weight_int8",
    "palette8",
    "palette6",
    "palette4",
]


class _Struct(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Strict and immutable."""


class InputSpec(_Struct, frozen=True, kw_only=True):
    """How an image becomes the input of stage 0.

    Attributes:
        height: Rows of the input.
        width: Columns of the input.
        colour: Always RGB, values 0 to 255; normalisation is inside the program.
        resize: ``stretch`` scales both sides on their own; ``cover`` scales the image so that it
            covers the input and cuts the middle out.
        filter: The resampling filter, with antialiasing, as docs/images.md defines it.
    """

    height: Count
    width: Count
    colour: Literal["rgb"] = "rgb"
    resize: Literal["stretch", "cover"] = "cover"
    filter: Literal["bilinear", "bicubic", "box", "nearest"] = "bilinear"


class StageEntry(_Struct, frozen=True, kw_only=True):
    """One stage of the network, whatever the program.

    Attributes:
        name: ``stage_0``, ``stage_1``, ...
        multiply_adds: Multiply-adds this stage adds to those before it, its exit included.
        parameters: Parameters this stage adds.
        carry_shapes: Shapes, ``(1, height, width, channels)`` or ``(1, features)``, of the tensors
            this stage hands to the next one; empty for the last.
    """

    name: Name
    multiply_adds: Unsigned
    parameters: Unsigned
    carry_shapes: tuple[tuple[Count, ...], ...]


class Quantization(_Struct, frozen=True, kw_only=True):
    """``real = scale * (stored - zero_point)``."""

    scale: Annotated[float, Meta(gt=0.0)]
    zero_point: int


class TensorEntry(_Struct, frozen=True, kw_only=True):
    """One tensor at the edge of a program's stage, in the program's own layout."""

    shape: tuple[Count, ...]
    dtype: Literal["float32", "float16", "int8", "int16", "uint8"]
    quantization: Quantization | None = None


class ProgramStage(_Struct, frozen=True, kw_only=True):
    """The signature, method or function that computes one stage.

    ``inputs`` is the image for stage 0 and the carry of the stage before for the others;
    ``outputs`` is the logits and then the carry.
    """

    inputs: tuple[TensorEntry, ...]
    outputs: tuple[TensorEntry, ...]


class FileEntry(_Struct, frozen=True, kw_only=True):
    """A file of the bundle; the path is relative, with forward slashes."""

    path: Name
    size_bytes: Count
    sha256: Sha256


class ProgramEntry(_Struct, frozen=True, kw_only=True):
    """One exported program: one runtime, one precision or one for each stage.

    Attributes:
        runtime: The engine that runs it.
        precision: How weights are kept and computed with. ``float32``. ``float16``: weights, and in
            Core ML the computation too. ``int8``: weights and activations, with scales fixed at
            export. ``int16x8``: the same with activations of 16 bits and weights of 8.
            ``dynamic_int8``: weights, and activations with scales found at each run.
            ``weight_int8``: weights alone. ``palette8``, ``palette6``, ``palette4``: each weight
            one of 256, 64 or 16 values of its layer. ``mixed``: each stage has its own.
        stage_precisions: Of ``mixed``, the precision of each stage; not all alike. Empty otherwise.
        files: One file, or all files of a package folder.
        stages: One entry per stage.
        exporter: Versions of the packages that made it, and the options they were given.
    """

    runtime: Literal["litert", "executorch", "coreml"]
    precision: Literal[Precision, "mixed"]
    stage_precisions: tuple[Precision, ...] = ()
    files: Annotated[tuple[FileEntry, ...], Meta(min_length=1)]
    stages: Annotated[tuple[ProgramStage, ...], Meta(min_length=1)]
    exporter: dict[str, str] = {}

    @property
    def name(self) -> str:
        """``runtime/precision``, as users write it: ``litert/int8``, ``litert/float32,int8``."""
        return f"{self.runtime}/{','.join(self.stage_precisions) or self.precision}"

    def precision_of(self, stage: int) -> Precision:
        """The precision of one stage."""
        if self.precision == "mixed":
            return self.stage_precisions[stage]
        return self.precision


CertificateKind = Literal[
    "accuracy_drop",
    "class_drop",
    "disagreement",
    "early_exit_drop",
    "mean_latency",
    "selective_error",
    "tail_latency",
]


class Certificate(_Struct, frozen=True, kw_only=True):
    """What a policy was calibrated to.

    Attributes:
        kind: What is limited. ``accuracy_drop``: accuracy of the reference less that of the
            policy. ``early_exit_drop``: the same among the images that leave early.
            ``class_drop``: the same in each class. ``disagreement``: share of the images that the
            policy answers unlike the reference. ``mean_latency``: milliseconds an image.
            ``tail_latency``: milliseconds that all but a share of ``1 - quantile`` of the images
            stay below. ``selective_error``: share of wrong answers among those not withheld.
        claim: The promise in one sentence.
        reference: Whose answers the policy's are compared with: those of the program's own last
            exit (``self``) or of the float network (``float``). ``None`` for the kinds that
            compare with nothing.
        limit: The promised bound: a fraction, or milliseconds for latencies.
        confidence: The probability, over calibration sets, that all promises of the policy hold.
        images_fit: Images used for temperatures and the candidate path.
        images_certified: Images used for the test, disjoint from those.
        observed: The value seen on the certification images.
        upper_bound: The smallest limit that would still have been certified.
        method: The statistical procedure.
        seed: Seed of the split and of the order of the test.
        data_sha256: Fingerprint of the logits and labels used.
        quantile: Of ``tail_latency``, such as 0.99; ``None`` for other kinds.
        exit_ms: For latencies, an upper confidence limit of the time until each exit answers: of
            its mean, or of its quantile. Empty for other kinds.
        device: For latencies, the record of the device they were measured on.
    """

    kind: CertificateKind
    claim: str
    limit: float
    confidence: Unit
    images_fit: Unsigned
    images_certified: Unsigned
    observed: float
    upper_bound: float
    method: Name
    seed: int
    data_sha256: Sha256
    reference: Literal["self", "float"] | None = None
    quantile: Unit | None = None
    exit_ms: tuple[Milliseconds, ...] = ()
    device: dict[str, str] = {}


class Policy(_Struct, frozen=True, kw_only=True):
    """When to stop: signal, temperatures, thresholds and enabled exits for one program.

    The three tuples have one entry per exit. The last exit always answers, so its threshold is not
    used (it is written as 0.0, and the exit as enabled); its temperature is, for scores and for
    abstention.

    Attributes:
        name: How users choose it; ``default`` unless they name it.
        program: ``runtime/precision`` of the program it was calibrated on.
        signal: What is compared with the threshold.
        temperatures: Logits are divided by these first.
        thresholds: An enabled exit answers at ``signal >= threshold``.
        enabled: A disabled exit never answers.
        abstain_below: The answer is withheld if the signal of the exit that answers, at its
            temperature, is below this; ``None`` never withholds one.
        exit_shares: Share of the certification images that left at each exit.
        exit_counts: The same as counts, for drift alarms.
        accuracy: Accuracy on the certification images under this policy, if labels were given.
        certificates: The promises this policy was calibrated to.
        vector_exits: The exit each test image of the bundle takes, so that a binding can prove
            that it decides alike.
    """

    name: Name
    program: Name
    signal: Literal["max_probability", "margin", "entropy"]
    temperatures: tuple[Annotated[float, Meta(gt=0.0)], ...]
    thresholds: tuple[Unit, ...]
    enabled: tuple[bool, ...]
    abstain_below: Unit | None = None
    exit_shares: tuple[Unit, ...] = ()
    exit_counts: tuple[Unsigned, ...] = ()
    accuracy: Unit | None = None
    certificates: tuple[Certificate, ...] = ()
    vector_exits: tuple[Unsigned, ...] = ()


class LatencyEntry(_Struct, frozen=True, kw_only=True):
    """Measured latency of one program on one device.

    Attributes:
        program: ``runtime/precision``.
        device: The device's record: processor, system, runtime version.
        threads: Threads the runtime was given.
        stage_samples_ms: Per stage, the wall-clock time of each run of that stage alone.
        warmup_runs: Runs thrown away first.
        measured_at: ISO 8601 date and time.
    """

    program: Name
    device: dict[str, str]
    threads: Count
    stage_samples_ms: tuple[tuple[Milliseconds, ...], ...]
    warmup_runs: Unsigned
    measured_at: str


class Provenance(_Struct, frozen=True, kw_only=True):
    """Where the network comes from.

    Attributes:
        created_by: Package and version, such as ``offramp 0.1.0``.
        method: The search method, or ``None`` for a network that was not searched.
        seed: Seed of the search.
        architecture: The decisions that define the network.
        base: The base network's name.
        data_sha256: Fingerprint of the training data.
    """

    created_by: str
    method: str | None = None
    seed: int | None = None
    architecture: dict[str, Any] = {}
    base: str | None = None
    data_sha256: Sha256 | None = None


class Manifest(_Struct, frozen=True, kw_only=True):
    """Everything there is to know about a bundle."""

    format_version: Literal[1]
    labels: Annotated[tuple[Name, ...], Meta(min_length=2)]
    input: InputSpec
    stages: Annotated[tuple[StageEntry, ...], Meta(min_length=1)]
    programs: Annotated[tuple[ProgramEntry, ...], Meta(min_length=1)]
    vectors: FileEntry
    policies: tuple[Policy, ...] = ()
    latencies: tuple[LatencyEntry, ...] = ()
    provenance: Provenance
