"""The folder that ships: its manifest, its reader, its writer and its checks."""

from offramp.bundle._manifest import (
    Certificate,
    FileEntry,
    InputSpec,
    LatencyEntry,
    Manifest,
    Policy,
    ProgramEntry,
    ProgramStage,
    Provenance,
    Quantization,
    StageEntry,
    TensorEntry,
)

__all__ = [
    "Certificate",
    "FileEntry",
    "InputSpec",
    "LatencyEntry",
    "Manifest",
    "Policy",
    "ProgramEntry",
    "ProgramStage",
    "Provenance",
    "Quantization",
    "StageEntry",
    "TensorEntry",
]
