"""Targets of the export, one module each, behind one interface."""

from offramp_export.card import Card
from offramp_export.footprint import StageDelegation, StageFootprint
from offramp_export.targets._base import ConvertedProgram, Target
from offramp_export.targets._coreml import CoreML
from offramp_export.targets._executorch import ExecuTorch
from offramp_export.targets._litert import LiteRT
from offramp_export.targets._parse import TARGETS, parse_target

__all__ = [
    "TARGETS",
    "Card",
    "ConvertedProgram",
    "CoreML",
    "ExecuTorch",
    "LiteRT",
    "StageDelegation",
    "StageFootprint",
    "Target",
    "parse_target",
]
