"""``offramp calibrate``."""

# ruff: noqa: TC001 - typer reads the annotations at run time
from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from offramp.cli import console
from offramp.cli._options import (
    BundleArgument,
    DataArgument,
    JsonOption,
    ProgramsOption,
    ThreadsOption,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from offramp.bundle import Bundle, Certificate, Policy

__all__ = ["calibrate"]

_FLOAT = "litert/float32"


def calibrate(
    bundle: BundleArgument,
    data_folder: DataArgument,
    program: ProgramsOption = None,
    limit: Annotated[
        float, typer.Option(help="Largest drop of accuracy, as a fraction: 0.01 is one point.")
    ] = 0.01,
    confidence: Annotated[float, typer.Option(help="Probability that the promise is kept.")] = 0.95,
    signal: Annotated[
        Literal["max_probability", "margin", "entropy"],
        typer.Option(help="What is compared with the threshold."),
    ] = "max_probability",
    reference: Annotated[
        Literal["self", "float"],
        typer.Option(
            help="Count the drop from the program's own last exit, or from that of "
            f"{_FLOAT} in the same bundle."
        ),
    ] = "self",
    policy_name: Annotated[
        str, typer.Option("--policy-name", help="The name that predict --policy takes.")
    ] = "default",
    seed: Annotated[int, typer.Option(help="Seed of the split and of the test's order.")] = 0,
    threads: ThreadsOption = 1,
    as_json: JsonOption = False,
) -> None:
    """Choose when to stop, with a certificate, and write it into the bundle.

    Runs the exported programs themselves on images that were not used for training or selection.
    """
    from offramp import calibration
    from offramp.bundle import Bundle
    from offramp.errors import BundleError
    from offramp.images import LabelledFolder

    opened = Bundle.open(bundle)
    if not opened.path.is_dir():
        raise BundleError(f"{bundle} is a zip; unpack it into a folder to write a policy into it")
    known = [entry.name for entry in opened.manifest.programs if entry.runtime == "litert"]
    names = list(dict.fromkeys(program or known))
    if not names:
        raise BundleError(f"{bundle} has no LiteRT program; only those can be calibrated here")
    needed = names if reference == "self" else list(dict.fromkeys([_FLOAT, *names]))
    for name in needed:
        opened.program(name)
    folder = LabelledFolder.open(data_folder, opened.manifest.labels)
    # Minutes of running programs are not spent on a promise that so few images cannot carry.
    calibration.split_images(len(folder.paths), limit=limit, confidence=confidence)
    with console.progress("Reading images", len(folder.paths)) as report:
        images = folder.load(opened.manifest.input, report)
    logits = {name: _run(opened, name, images, threads) for name in needed}
    policies = [
        calibration.calibrate(
            logits[name],
            folder.labels,
            program=name,
            limit=limit,
            confidence=confidence,
            signal=signal,
            reference=reference,
            reference_logits=None if reference == "self" else logits[_FLOAT][-1],
            seed=seed,
            name=policy_name,
        )
        for name in names
    ]
    for policy in policies:
        opened = opened.add_policy(policy)
    written = [opened.policy(name, policy_name) for name in names]
    console.emit(as_json, written, lambda: _render(written))


def _run(bundle: Bundle, name: str, images: NDArray[Any], threads: int) -> NDArray[Any]:
    from offramp.profiling import collect_logits
    from offramp.runtimes import open_runtime

    with (
        open_runtime(bundle, name, threads=threads) as runtime,
        console.progress(f"Running {name}", len(images)) as report,
    ):
        return collect_logits(runtime, images, report)


def _render(policies: list[Policy]) -> None:
    console.table(
        (
            "program",
            "policy",
            "images per exit",
            "accuracy",
            "drop seen",
            "of those early",
            "drop at most",
        ),
        [
            (
                policy.program,
                policy.name,
                " ".join(f"{share:.1%}" for share in policy.exit_shares),
                "-" if policy.accuracy is None else f"{policy.accuracy:.2%}",
                f"{certificate.observed:.2%}",
                _among_early(policy, certificate),
                f"{certificate.limit:.2%}",
            )
            for policy in policies
            for certificate in policy.certificates
        ],
    )
    for policy in policies:
        for certificate in policy.certificates:
            if not any(policy.enabled[:-1]):
                print(
                    f"No early exit of {policy.program} could be certified to cost at most "
                    f"{certificate.limit:.2%} at {certificate.confidence:.1%} confidence with "
                    f"{certificate.images_certified} images, so all are disabled: give more "
                    "images, or raise the limit."
                )
            print(certificate.claim)


def _among_early(policy: Policy, certificate: Certificate) -> str:
    """The drop among the images that left early, where all of it happens.

    Not certified, and several times the mean over all images when few leave. Against the float
    network the images that did not leave early lose something too, so it is not known.
    """
    early = sum(policy.exit_shares[:-1])
    if early == 0 or certificate.reference != "self":
        return "-"
    return f"{certificate.observed / early:.2%}"
