"""``offramp inspect``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from offramp.cli import console
from offramp.cli._options import (
    BundleArgument,
    JsonOption,
    SignatureOption,
    TrustedCertificateOption,
    TrustedKeyOption,
    open_bundle,
)

if TYPE_CHECKING:
    from offramp.bundle import LatencyEntry, Manifest, Policy

__all__ = ["inspect"]


def inspect(
    bundle: BundleArgument,
    trusted_key: TrustedKeyOption = None,
    trusted_certificate: TrustedCertificateOption = None,
    signature: SignatureOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a bundle holds, after checking every file against its hash."""
    manifest = open_bundle(bundle, trusted_key, trusted_certificate, signature).manifest
    console.emit(as_json, manifest, lambda: _render(manifest))


def _render(manifest: Manifest) -> None:
    from offramp.runtimes import describe_runtime

    labels = ", ".join(manifest.labels[:5]) + (", ..." if len(manifest.labels) > 5 else "")
    print(f"{len(manifest.labels)} classes: {labels}")
    spec = manifest.input
    print(
        f"Input: {spec.height}×{spec.width} {spec.colour.upper()}, "
        f"resize {spec.resize} with {spec.filter}"
    )
    console.table(
        ("stage", "multiply-adds", "parameters", "carry"),
        [
            (
                stage.name,
                f"{stage.multiply_adds:,}",
                f"{stage.parameters:,}",
                " ".join("×".join(map(str, shape)) for shape in stage.carry_shapes) or "none",
            )
            for stage in manifest.stages
        ],
        title="Stages",
    )
    console.table(
        ("program", "bytes", "made with", "runs here with"),
        [
            (
                program.name,
                f"{sum(file.size_bytes for file in program.files):,}",
                ", ".join(f"{name} {version}" for name, version in program.exporter.items()),
                describe_runtime(program) or "nothing installed",
            )
            for program in manifest.programs
        ],
        title="Programs",
    )
    if manifest.policies:
        _render_policies(manifest.policies)
    else:
        print("No policies: every image would run to the last exit; see offramp calibrate.\n")
    for entry in manifest.latencies:
        _render_latency(entry)
    origin = manifest.provenance
    print(f"Made by {origin.created_by}", end="")
    for word, value in (("method", origin.method), ("base", origin.base), ("seed", origin.seed)):
        print("" if value is None else f", {word} {value}", end="")
    print(f", architecture of {len(origin.architecture)} decisions.")


def _render_policies(policies: tuple[Policy, ...]) -> None:
    console.table(
        ("policy", "program", "signal", "exit", "threshold", "temperature", "images"),
        [
            (
                policy.name if exit == 0 else "",
                policy.program if exit == 0 else "",
                policy.signal if exit == 0 else "",
                exit,
                _threshold(policy, exit),
                f"{policy.temperatures[exit]:.4f}",
                f"{policy.exit_shares[exit]:.1%}" if policy.exit_shares else "-",
            )
            for policy in policies
            for exit in range(len(policy.enabled))
        ],
        title="Policies",
    )
    for policy in policies:
        for certificate in policy.certificates:
            print(f"{policy.name}, {policy.program}: {certificate.claim}")
            print(
                f"  {certificate.images_certified} images, observed {certificate.observed:.2%}, "
                f"would hold down to {certificate.upper_bound:.2%}; {certificate.method}, "
                f"seed {certificate.seed}"
            )
    print()


def _threshold(policy: Policy, exit: int) -> str:
    if exit == len(policy.enabled) - 1:
        return "always"
    return f"{policy.thresholds[exit]:.6f}" if policy.enabled[exit] else "disabled"


def _render_latency(entry: LatencyEntry) -> None:
    from offramp.cli._latencies import latency_table
    from offramp.latency import Latency

    device = ", ".join(entry.device.values())
    where = f"threads: {entry.threads}, {entry.measured_at}, {device}"
    latency_table(
        tuple(Latency(samples, entry.warmup_runs) for samples in entry.stage_samples_ms),
        title=f"Latency of {entry.program}, {where}",
    )
