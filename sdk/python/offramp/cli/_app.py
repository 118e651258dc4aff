"""The app and its entry point."""

from __future__ import annotations

import os
import sys
import traceback
from typing import Annotated

import typer

from offramp.cli._bench import bench
from offramp.cli._build_shim import build_shim
from offramp.cli._calibrate import calibrate
from offramp.cli._inspect import inspect
from offramp.cli._monitor import monitor
from offramp.cli._plugins import PluginGroup, add_plugins
from offramp.cli._predict import predict
from offramp.cli._profile import profile
from offramp.cli._sign import sign
from offramp.cli._verify import verify
from offramp.errors import OfframpError

__all__ = ["build", "run"]

_EPILOG = (
    "Exit codes: 0 done; 1 tried and failed (verification, engine, device); "
    "2 what was given cannot be used (option, file, image, missing extra); 130 interrupted. "
    "OFFRAMP_DEBUG=1 shows tracebacks."
)


def build() -> typer.Typer:
    """Put the app together: the commands of the SDK, then those of plugins."""
    app = typer.Typer(
        cls=PluginGroup,
        no_args_is_help=True,
        epilog=_EPILOG,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_main)
    for command in (
        *(predict, calibrate, inspect, verify, sign, profile, bench, monitor),
        build_shim,
    ):
        app.command()(command)
    add_plugins(app)
    return app


def run() -> None:
    """Run the command line and leave with its exit code.

    Errors that Offramp raises on purpose become one sentence on standard error. Anything else is
    a defect and keeps its traceback.
    """
    try:
        typer.main.get_command(build())(prog_name="offramp")
    except KeyboardInterrupt:
        sys.exit(130)
    except (OfframpError, OSError) as error:
        if os.environ.get("OFFRAMP_DEBUG", "") not in {"", "0"}:
            traceback.print_exc()
        sys.stderr.write(f"offramp: {error}\n")
        sys.exit(2 if isinstance(error, (ValueError, ImportError)) else 1)


def _main(
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=lambda asked: _print_version(asked)),
    ] = False,
) -> None:
    """Image classifiers that answer easy images early, on the device."""


def _print_version(asked: bool) -> None:
    if asked:
        from offramp import __version__

        sys.stdout.write(f"offramp {__version__}\n")
        raise typer.Exit
