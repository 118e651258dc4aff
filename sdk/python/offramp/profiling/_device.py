"""What a measurement was made on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

__all__ = ["device_record"]


def device_record() -> dict[str, str]:
    """This device: processor, cores, system and runtime version.

    Two measurements with equal records may be compared; nothing in it names a person or a host.
    """
    return {
        "processor": _processor(),
        "machine": platform.machine(),
        "cores": str(os.cpu_count() or 0),
        "system": f"{platform.system()} {platform.release()}",
        "runtime": _runtime(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    fields = {
        key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)
    }
    # x86 says "model name"; boards say "Model" (Raspberry Pi) or only the part number of the core.
    for name in ("model name", "Model", "Hardware", "CPU part"):
        if fields.get(name):
            return fields[name]
    return platform.processor() or "unknown"


def _runtime() -> str:
    try:
        return f"ai-edge-litert {version('ai-edge-litert')}"
    except PackageNotFoundError:
        return "none"
