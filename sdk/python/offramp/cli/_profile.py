"""``offramp profile``."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from offramp.cli import console
from offramp.cli._latencies import latency_table, p90_ms
from offramp.cli._options import (
    BundleArgument,
    JsonOption,
    ProgramOption,
    SignatureOption,
    ThreadsOption,
    TrustedCertificateOption,
    TrustedKeyOption,
    open_bundle,
    say_unsigned,
)

__all__ = ["profile"]


def profile(
    bundle: BundleArgument,
    program: ProgramOption = None,
    threads: ThreadsOption = 1,
    runs: Annotated[
        int, typer.Option(min=1, help="Samples of each stage; a deadline relies on 299 at least.")
    ] = 300,
    save: Annotated[
        bool, typer.Option("--save", help="Write the measurement into the bundle.")
    ] = False,
    trusted_key: TrustedKeyOption = None,
    trusted_certificate: TrustedCertificateOption = None,
    signature: SignatureOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure how long each stage takes on this device."""
    from offramp.bundle import LatencyEntry
    from offramp.errors import BundleError
    from offramp.profiling import device_record, measure_stages
    from offramp.runtimes import open_runtime

    opened = open_bundle(bundle, trusted_key, trusted_certificate, signature)
    if save and not opened.path.is_dir():
        raise BundleError(f"{bundle} is a zip; unpack it into a folder to save into it")
    entry = opened.program(program)
    image = opened.vectors().images[0]
    with open_runtime(opened, entry.name, threads=threads) as runtime:
        stages = measure_stages(runtime, image, runs=runs)
        device = device_record(runtime.engine)
    latency = LatencyEntry(
        program=entry.name,
        device=device,
        threads=threads,
        stage_samples_ms=tuple(stage.samples_ms for stage in stages),
        warmup_runs=stages[0].warmup_runs,
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    if save:
        opened.add_latency(latency)
    data = {
        "program": entry.name,
        "device": latency.device,
        "threads": threads,
        "measured_at": latency.measured_at,
        "stages": [
            {
                "median_ms": stage.median_ms,
                "p90_ms": p90_ms(stage),
                "mean_ms": stage.mean_ms,
                "samples_ms": stage.samples_ms,
            }
            for stage in stages
        ],
        "saved": save,
    }

    def render() -> None:
        latency_table(stages, title=f"{entry.name} on {latency.device['processor']}")
        if save:
            print(f"Saved in {opened.path}.")
            say_unsigned(opened, trusted_key, trusted_certificate)

    console.emit(as_json, data, render)
