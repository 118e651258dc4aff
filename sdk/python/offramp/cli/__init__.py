"""The command line: ``offramp COMMAND`` and ``python -m offramp COMMAND``.

The commands of the SDK live here, one private module each. Other packages add theirs through the
entry-point group ``offramp.commands``; each entry point is a plain function::

    # pyproject.toml
    [project.entry-points."offramp.commands"]
    export = "offramp_export.cli:export"

    # offramp_export/cli.py
    from pathlib import Path  # noqa: TC003 - typer reads the annotations at run time
    from typing import Annotated

    import typer

    from offramp.cli import console


    def export(
        network: Annotated[str, typer.Argument(help="MODULE:FACTORY of the stages.")],
        output: Annotated[Path, typer.Option("--output", "-o", help="The bundle to write.")],
        as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    ) -> None:
        \"\"\"Export a multi-stage network as a bundle.\"\"\"
        from offramp_export import export as export_bundle  # heavy: only when the command runs

        with console.progress("Exporting", total=3) as report:
            bundle = export_bundle(..., progress=report)
        console.emit(as_json, {"path": str(bundle.path)}, lambda: print(bundle.path))

What a command function must keep to:

* Its docstring is the help text: prose, no ``Args:`` section; each parameter says its own help.
  ``offramp --help`` takes the docstring's first line out of the source file without importing the
  module, so listing the commands never loads torch. The module is imported when its command is
  called, also for ``offramp export --help``: keep heavy imports inside functions.
* It raises the errors of ``offramp.errors``; ``run`` prints them as one sentence. A module that is
  not installed becomes the pip line of the extra: ``offramp_export`` belongs to the extra
  ``export``, ``offramp_search`` to ``search``. A test that fails raises ``typer.Exit(1)``.
* Results go to standard output, progress and errors to standard error.

Exit codes: 0 done; 1 it was tried and failed (a verification, an engine, a device, a defect of
Offramp itself); 2 what was given cannot be used (an option, a file, an image, a missing extra);
130 interrupted. ``OFFRAMP_DEBUG=1`` shows the traceback of every error.
"""

from offramp.cli import console
from offramp.cli._app import run

__all__ = ["console", "run"]
