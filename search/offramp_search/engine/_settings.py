"""What the results of a search depend on, kept beside them."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import msgspec
from optuna.distributions import distribution_to_json

from offramp._files import write_atomically
from offramp.errors import ResumeError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from optuna.samplers import BaseSampler

    from offramp_search.budget import Budget
    from offramp_search.devices import LatencyTable
    from offramp_search.evaluators import Evaluator
    from offramp_search.spaces import Space

__all__ = ["check_settings", "settings_of"]


def settings_of(
    space: Space,
    sampler: BaseSampler,
    evaluator: Evaluator,
    table: LatencyTable,
    budget: Budget,
    *,
    seed: int,
    signal: str,
    extra: Mapping[str, str],
) -> dict[str, Any]:
    """Everything that must be equal for a search to be continued, as JSON has it."""
    decisions = "\n".join(
        f"{name} {distribution_to_json(distribution)}"
        for name, distribution in space.decisions().items()
    )
    return {
        "space": f"{type(space).__name__}, {space.num_stages} stages, "
        f"decisions {hashlib.sha256(decisions.encode()).hexdigest()[:16]}",
        "sampler": str(sampler),
        "evaluator": type(evaluator).__name__,
        "device": table.fingerprint,
        "budget": asdict(budget),
        "seed": seed,
        "signal": signal,
        **extra,
    }


def check_settings(path: Path, settings: Mapping[str, Any]) -> None:
    """Write the settings of a new search, or refuse to continue one that had others.

    Raises:
        ResumeError: They differ, or the file cannot be read.
    """
    if not path.exists():
        encoded = msgspec.json.encode(dict(settings))
        write_atomically(path, msgspec.json.format(encoded, indent=1) + b"\n")
        return
    try:
        before = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ResumeError(
            f"{path} does not hold the settings of a search ({error}); use another folder"
        ) from error
    for name in (*settings, *before):
        if before.get(name) != settings.get(name):
            raise ResumeError(
                f"{path.parent} holds a search with {name} {before.get(name)!r}, which cannot be "
                f"continued with {name} {settings.get(name)!r}; use another folder, or the same "
                "settings"
            )
