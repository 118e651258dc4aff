"""Offramp's export: torch stages to programs, and the proof that they agree.

Names are loaded when they are first used, so that importing the package, as the command line does,
does not load torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from offramp_export._export import ExportResult, export
    from offramp_export.fine_tuning import FineTuning, fine_tune
    from offramp_export.network import MultiStageNetwork, Preprocess
    from offramp_export.parity import Parity
    from offramp_export.report import ExportReport, write_report

__all__ = [
    "ExportReport",
    "ExportResult",
    "FineTuning",
    "MultiStageNetwork",
    "Parity",
    "Preprocess",
    "export",
    "fine_tune",
    "write_report",
]

_HOMES = {
    "ExportReport": "offramp_export.report",
    "ExportResult": "offramp_export._export",
    "FineTuning": "offramp_export.fine_tuning",
    "MultiStageNetwork": "offramp_export.network",
    "Parity": "offramp_export.parity",
    "Preprocess": "offramp_export.network",
    "export": "offramp_export._export",
    "fine_tune": "offramp_export.fine_tuning",
    "write_report": "offramp_export.report",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
