"""Write the figures of the README from the results they come from.

    .venv/bin/python benchmarks/figures.py

Each block between `<!-- figures: NAME -->` and `<!-- end -->` is rewritten from
`benchmarks/results/NAME.json`. A test fails when README and results differ.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"(<!-- figures: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def demo(result: dict[str, Any]) -> str:
    """Static against dynamic, for each program."""
    lines = [
        "| program | network | test accuracy | mean ms | median ms | p90 ms | faster | exits |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for program, figures in result["figures"]["programs"].items():
        for network in ("static", "dynamic"):
            measured = figures[network]
            shares = " / ".join(f"{share:.0%}" for share in figures["exit_shares"])
            dynamic = network == "dynamic"
            faster = f"{1 / figures['mean_ratio']:.1f}×"
            lines.append(
                f"| {program} | {network} | {measured['accuracy']:.2%} "
                f"| {measured['mean_ms']:.3f} | {measured['median_ms']:.3f} "
                f"| {measured['p90_ms']:.3f} "
                f"| {faster if dynamic else '1'} | {shares if dynamic else '-'} |"
            )
    certificate = figures["certificate"]
    machine = result["machine"]
    lines += [
        "",
        f"Measured on {result['date'][:10]} on {machine['processor']}, {_versions(result)}, one "
        f"thread, one image at a time, {figures['test_images']:,} test images. Certified: with "
        f"{certificate['confidence']:.0%} confidence the early exits cost at most "
        f"{100 * certificate['limit']:g} % of accuracy (absolute).",
    ]
    return "\n".join(lines)


def _versions(result: dict[str, Any]) -> str:
    return f"LiteRT {result['versions']['ai-edge-litert']}"


RENDERERS = {"demo": demo}


def render(text: str) -> str:
    """The text with every block of figures rewritten."""

    def block(match: re.Match[str]) -> str:
        name = match[2]
        result = json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())
        return f"{match[1]}{RENDERERS[name](result)}\n{match[3]}"

    return BLOCK.sub(block, text)


def main() -> None:
    """Rewrite the README."""
    readme = ROOT / "README.md"
    readme.write_text(render(readme.read_text()))


if __name__ == "__main__":
    main()
