"""The plot that says it all: accuracy against latency."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from offramp._files import write_atomically

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

__all__ = ["Point", "plot_tradeoff"]


@final
@dataclass(frozen=True, slots=True)
class Point:
    """One network in the plot.

    Attributes:
        name: What the legend calls it.
        mean_ms: Mean latency per image, in milliseconds.
        accuracy: Between 0 and 1.
        group: Points and curves of one group have one colour.
        is_static: A network without early exits.
    """

    name: str
    mean_ms: float
    accuracy: float
    group: str = ""
    is_static: bool = False


def plot_tradeoff(
    path: Path,
    points: Sequence[Point],
    *,
    curves: Mapping[str, Sequence[tuple[float, float]]] | None = None,
    curve_label: str = "{name}, other thresholds (calibration images)",
    title: str = "",
) -> None:
    """Plot accuracy against mean latency as a PNG file.

    Args:
        path: The file; its folder is made if need be.
        points: Static and dynamic networks.
        curves: Per group the ``(mean_ms, accuracy)`` that other thresholds would give.
        curve_label: What the legend calls a curve; ``{name}`` is its group.
        title: A line above the plot.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    try:
        colours: dict[str, str] = {}
        for name, curve in (curves or {}).items():
            ordered = sorted(curve)
            colours.setdefault(name, f"C{len(colours)}")
            axes.plot(
                [ms for ms, _ in ordered],
                [100 * accuracy for _, accuracy in ordered],
                linewidth=1.2,
                alpha=0.7,
                color=colours[name],
                label=curve_label.format(name=name),
            )
        for point in points:
            colours.setdefault(point.group, f"C{len(colours)}")
            axes.scatter(
                point.mean_ms,
                100 * point.accuracy,
                marker="s" if point.is_static else "o",
                s=45,
                color=colours[point.group],
                zorder=3,
                label=point.name,
            )
        axes.set_xlabel("mean latency per image (ms)")
        axes.set_ylabel("accuracy (%)")
        axes.set_xlim(left=0)
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
        axes.set_title(title, fontsize="medium")
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=150)
    finally:
        pyplot.close(figure)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, buffer.getvalue())
