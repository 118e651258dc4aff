"""Activations of a Core ML model in int8, with ranges measured on this machine.

coremltools measures them by running the model, which takes macOS, and keeps the range of the last
sample alone. Here the model is evaluated operator by operator, the ranges cover every sample, and
coremltools' own graph passes put the pairs of ``quantize`` and ``dequantize`` in.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from offramp_export._require import require
from offramp_export._usual_bounds import usual_bounds
from offramp_export.targets._coreml_outputs import separate_outputs
from offramp_export.targets._mil import SavedProgram

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import Tensor

__all__ = ["quantize_activations"]


def quantize_activations(model: Any, samples: Iterable[Sequence[Tensor]]) -> Any:
    """The model with int8 activations around its convolutions, poolings, products and sums.

    Args:
        model: In float16, for iOS 17 or newer.
        samples: What the model is called with: its inputs, in order, per calibration image.
    """
    optimize = require("coremltools.optimize.coreml")
    from coremltools.converters.mil.frontend.milproto.load import load
    from coremltools.converters.mil.mil.passes.graph_pass import PassOption
    from coremltools.converters.mil.mil.passes.pass_registry import PASS_REGISTRY
    from coremltools.models.utils import _apply_graph_pass

    # The passes cannot replace an operator whose result is handed out.
    model = separate_outputs(model, always=True)
    config = optimize.OptimizationConfig(
        global_config=optimize.OpLinearQuantizerConfig(mode="linear_symmetric")
    )
    passes = []
    ranges = _measure(model, samples)
    for side in ("prefix", "suffix"):
        insertion = PASS_REGISTRY[f"compression::insert_{side}_quantize_dequantize_pair"]
        insertion.set_options(
            [PassOption("config", config), PassOption("activation_stats", ranges)]
        )
        passes.append(insertion)
    passes.append(PASS_REGISTRY["common::dequantize_quantize_pair_elimination"])
    return _apply_graph_pass(
        model,
        passes,
        spec_version=model.get_spec().specificationVersion,
        pymil_load_func=load,
        skip_model_load=True,
    )


def _measure(model: Any, samples: Iterable[Sequence[Tensor]]) -> dict[str, dict[str, float]]:
    """The usual bounds of every tensor over the samples."""
    program = SavedProgram(model)
    seen: dict[str, list[tuple[float, float]]] = {}
    positions: dict[str, int] = {}

    def observe(name: str, value: Tensor) -> None:
        seen.setdefault(name, []).append((float(value.min()), float(value.max())))
        positions[name] = math.prod(value.shape[2:]) if value.ndim == 4 else 0

    for sample in samples:
        program.run("main", sample, observe=observe)
    ranges = {
        name: dict(
            zip(
                ("rmin", "rmax"),
                usual_bounds(*np.array(found).T, positions=positions[name]),
                strict=True,
            )
        )
        for name, found in seen.items()
    }
    _share_within_joins(program, ranges)
    return ranges


def _share_within_joins(program: SavedProgram, ranges: dict[str, dict[str, float]]) -> None:
    """One range for all that a concatenation joins, so that it can stay in int8."""
    groups: list[set[str]] = []
    for joined in program.joins("main"):
        group = set(joined)
        for other in [other for other in groups if other & group]:
            group |= other
            groups.remove(other)
        groups.append(group)
    for group in groups:
        known = [ranges[name] for name in group if name in ranges]
        shared = {
            "rmin": min(entry["rmin"] for entry in known),
            "rmax": max(entry["rmax"] for entry in known),
        }
        ranges.update(dict.fromkeys(group & ranges.keys(), shared))
