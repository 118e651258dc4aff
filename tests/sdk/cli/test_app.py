"""The entry point: errors, exit codes, plugins, and how light it is."""

from __future__ import annotations

import importlib.metadata
import os
import resource
import signal
import subprocess
import sys
import textwrap
from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING, Any

import pytest

from offramp import __version__
from offramp.errors import DeviceError, ImageError, MissingExtraError, TooFewImagesError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Offramp = Any

# Torch and optuna cannot be found, as after a plain pip install.
BLOCKER = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "optuna"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocker())
"""


def shell(*arguments: str, code: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own, after ``code`` has run there."""
    script = f"{code}\nimport sys\nsys.argv[1:] = {arguments!r}\nfrom offramp.cli import run\nrun()"
    return subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **variables},
    )


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Install a command ``extra`` from ``offramp_extra.cli:extra`` with this source."""

    def install(source: str) -> None:
        package = tmp_path / "site" / "offramp_extra"
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        (package / "cli.py").write_text(textwrap.dedent(source))
        monkeypatch.syspath_prepend(package.parent)
        entry = EntryPoint("extra", "offramp_extra.cli:extra", "offramp.commands")
        monkeypatch.setattr("offramp.cli._plugins.entry_points", lambda group: [entry])
        for module in ("offramp_extra", "offramp_extra.cli"):
            monkeypatch.delitem(sys.modules, module, raising=False)

    return install


GREETING = '''
from typing import Annotated

import typer


def extra(name: str, loud: Annotated[bool, typer.Option(help="Shout.")] = False) -> None:
    """Greet somebody.

    At length.
    """
    print(name.upper() if loud else name)
'''


class TestPlugins:
    def test_a_plugin_is_a_command(self, offramp: Offramp, plugin: Callable[[str], None]) -> None:
        plugin(GREETING)
        assert offramp("extra", "ada", "--loud").out == "ADA\n"
        own_help = offramp("extra", "--help").out
        assert "Shout." in own_help
        assert "At length." in own_help

    def test_listing_it_does_not_import_it(
        self, offramp: Offramp, plugin: Callable[[str], None]
    ) -> None:
        plugin(GREETING + "\nraise AssertionError('imported')\n")
        out = offramp("--help").out
        assert "Greet somebody." in out
        assert "At length." not in out
        assert "offramp_extra.cli" not in sys.modules

    @pytest.mark.parametrize(
        "source",
        [
            "import no_such_package\n\ndef extra() -> None:\n    '''Do it.'''\n",
            "def extra() -> None:\n    '''Do it.'''\n    import no_such_package.inner\n",
        ],
        ids=["at import", "when run"],
    )
    def test_a_missing_package_becomes_the_pip_line(
        self, offramp: Offramp, plugin: Callable[[str], None], source: str
    ) -> None:
        plugin(source)
        ran = offramp("extra")
        assert (ran.code, ran.out) == (2, "")
        assert "'no_such_package'" in ran.err
        assert 'pip install "offramp[extra]"' in ran.err
        assert "Do it." in offramp("--help").out

    @pytest.mark.parametrize(
        "source",
        ["import offramp_extra.gone\n\ndef extra() -> None: ...\n", "import offramp.gone\n"],
    )
    def test_a_missing_module_of_its_own_is_a_defect_and_not_an_extra(
        self,
        plugin: Callable[[str], None],
        source: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        from offramp.cli import run

        plugin(source)
        monkeypatch.setattr(sys, "argv", ["offramp", "extra"])
        with pytest.raises(ModuleNotFoundError, match="gone"):
            run()

    @pytest.mark.parametrize("extra", ["export", "search"])
    def test_without_torch_the_pip_line_names_the_extra_of_the_package(self, extra: str) -> None:
        """A real process; the package is there and torch is not."""
        listed = shell("--help", code=BLOCKER)
        assert listed.returncode == 0
        assert extra in listed.stdout
        # A command of that package whose module needs torch as soon as it is imported.
        needy = f"""
import importlib.abc, importlib.metadata, importlib.util
import offramp.cli._plugins as plugins

class Needy(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    def find_spec(self, name, path=None, target=None):
        if name == "offramp_{extra}.needy":
            return importlib.util.spec_from_loader(name, self)
    def get_source(self, name):
        return "import torch"

sys.meta_path.insert(0, Needy())
entry = importlib.metadata.EntryPoint("needy", "offramp_{extra}.needy:run", "offramp.commands")
plugins.entry_points = lambda group: [entry]
"""
        ran = shell("needy", code=BLOCKER + needy)
        assert ran.returncode == 2
        assert ran.stderr.count("\n") == 1
        assert "'torch'" in ran.stderr
        assert f'pip install "offramp[{extra}]"' in ran.stderr

    @pytest.mark.parametrize("command", ["export", "search", "demo", "methods"])
    def test_the_help_of_the_project_s_own_plugins_needs_no_torch(self, command: str) -> None:
        ran = shell(command, "--help", code=BLOCKER)
        assert (ran.returncode, ran.stderr) == (0, "")
        assert f"offramp {command}" in ran.stdout

    def test_the_entry_points_of_the_project_are_plain_functions_in_the_source(self) -> None:
        from offramp.cli._plugins import _summary

        for entry in importlib.metadata.entry_points(group="offramp.commands"):
            assert not _summary(entry).startswith("Added by"), entry


class TestErrors:
    @pytest.mark.parametrize(
        ("error", "code"),
        [
            (ImageError("the image is no image"), 2),
            (MissingExtraError('run: pip install "offramp[search]"'), 2),
            (TooFewImagesError("too few", got=1, needed=2), 2),
            (DeviceError("the board is gone"), 1),
            (PermissionError(13, "Permission denied", "/etc/shadow"), 1),
        ],
    )
    def test_each_error_is_one_sentence_and_its_code(
        self,
        offramp: Offramp,
        plugin: Callable[[str], None],
        error: Exception,
        code: int,
    ) -> None:
        plugin("error = None\n\ndef extra() -> None:\n    raise error\n")
        import offramp_extra.cli  # type: ignore[import-not-found]

        offramp_extra.cli.error = error
        ran = offramp("extra")
        assert (ran.code, ran.out) == (code, "")
        assert ran.err == f"offramp: {error}\n"

    def test_the_traceback_is_there_for_the_asking(self, tmp_path: Path) -> None:
        quiet = shell("inspect", str(tmp_path))
        assert (quiet.returncode, "Traceback" in quiet.stderr) == (2, False)
        loud = shell("inspect", str(tmp_path), OFFRAMP_DEBUG="1")
        assert "Traceback" in loud.stderr
        assert loud.stderr.endswith(quiet.stderr)
        assert loud.returncode == 2

    def test_a_defect_keeps_its_traceback(
        self, plugin: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from offramp.cli import run

        plugin("def extra() -> None:\n    raise ZeroDivisionError\n")
        monkeypatch.setattr(sys, "argv", ["offramp", "extra"])
        with pytest.raises(ZeroDivisionError):
            run()

    def test_usage_errors_are_exit_code_2(self, offramp: Offramp) -> None:
        assert offramp("nonsense").code == 2
        assert offramp("predict").code == 2
        assert offramp("predict", "--nonsense").code == 2

    def test_ctrl_c_is_exit_code_130_and_quiet(self) -> None:
        code = """
import offramp.cli._app as app, signal, time
# Whoever starts the tests in the background has it ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
def wait() -> None:
    print("waiting", flush=True)
    time.sleep(60)
app.inspect = wait
import sys
sys.argv[1:] = ["wait"]
app.run()
"""
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
        assert process.returncode == 130
        assert "Traceback" not in out + err


class TestEntry:
    def test_the_version(self, offramp: Offramp) -> None:
        assert offramp("--version").out == f"offramp {__version__}\n"

    def test_the_module_is_the_command(self) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "offramp", "--version"],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.stdout == f"offramp {__version__}\n"

    def test_the_codes_are_documented(self, offramp: Offramp) -> None:
        ran = offramp("--help")
        assert ran.code == 0
        words = " ".join(ran.out.split())
        assert "Exit codes: 0 done; 1" in words
        for command in ("predict", "calibrate", "inspect", "verify", "profile", "bench"):
            assert command in words

    def test_help_loads_no_arrays_and_no_networks(self) -> None:
        report = (
            "import atexit, sys\n"
            "heavy = ('numpy', 'torch', 'optuna', 'ai_edge_litert', 'PIL', 'msgspec')\n"
            "atexit.register(lambda: print([name for name in heavy if name in sys.modules]))"
        )
        assert shell("--help", code=report).stdout.endswith("[]\n")
        # The report sees what is loaded.
        assert shell("--help", code=report + "\nimport numpy").stdout.endswith("['numpy']\n")

    def test_help_is_there_before_one_waits_for_it(self) -> None:
        """In processor time, which a busy machine does not stretch as it does the clock."""

        def seconds() -> float:
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            assert shell("--help").returncode == 0
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

        assert min(seconds() for _ in range(3)) < 1.0
