"""The folder that ships: its manifest, its reader, its writer and its checks."""

from offramp.bundle._bundle import Bundle
from offramp.bundle._manifest import (
    Certificate,
    CertificateKind,
    FileEntry,
    InputSpec,
    LatencyEntry,
    Manifest,
    Policy,
    Precision,
    ProgramEntry,
    ProgramStage,
    Provenance,
    Quantization,
    StageEntry,
    TensorEntry,
)
from offramp.bundle._parse import encode_manifest, json_schema, parse_manifest
from offramp.bundle._vectors import Vectors, encode_vectors
from offramp.bundle._write import describe_file, pack_bundle, write_bundle

__all__ = [
    "Bundle",
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
    "Vectors",
    "describe_file",
    "encode_manifest",
    "encode_vectors",
    "json_schema",
    "pack_bundle",
    "parse_manifest",
    "write_bundle",
]
