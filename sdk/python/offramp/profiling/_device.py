"""What a measurement was made on."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from offramp.runtimes import installed_runtimes

__all__ = ["device_record"]


def device_record(engine: str | None = None) -> dict[str, str]:
    """This device: processor, cores, system, and the runtime with its version.

    Two measurements with equal records may be compared; nothing in it names a person or a host.

    Args:
        engine: What ran, as ``Runtime.engine`` says; ``None`` takes the first runtime that is
            installed here.
    """
    return {
        "processor": _processor(),
        "machine": platform.machine(),
        "cores": str(os.cpu_count() or 0),
        "system": f"{platform.system()} {platform.release()}",
        "runtime": engine or next(iter(installed_runtimes().values()), "none"),
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
