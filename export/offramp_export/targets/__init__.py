"""Targets of the export, one module each, behind one interface."""

from offramp_export.targets._base import ConvertedProgram, Target

__all__ = ["ConvertedProgram", "Target"]
