"""Commands that other packages add, found by entry point and loaded when they are called."""

from __future__ import annotations

import ast
import functools
import importlib.util
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperGroup

from offramp.errors import MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Callable
    from importlib.metadata import EntryPoint

__all__ = ["PluginGroup", "add_plugins"]

GROUP = "offramp.commands"


class PluginGroup(TyperGroup):
    """A group whose plugin commands are placeholders until one of them is called."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Load the plugin behind the command that is called, then resolve as usual."""
        plugins = {plugin.name: plugin for plugin in entry_points(group=GROUP)}
        if args and args[0] in plugins:
            try:
                self.commands[args[0]] = _command(plugins[args[0]])
            except MissingExtraError:
                # While a shell asks for completions there is nobody to tell.
                if not ctx.resilient_parsing:
                    raise
        return super().resolve_command(ctx, args)


def add_plugins(app: typer.Typer) -> None:
    """Put a placeholder for each plugin command into the app, for the list in ``--help``."""
    for plugin in sorted(entry_points(group=GROUP), key=lambda plugin: plugin.name):
        app.command(plugin.name, help=_summary(plugin))(_placeholder)


def _placeholder() -> None:
    """Never runs: the group replaces the placeholder before it is called."""
    raise AssertionError("a plugin command was called before it was loaded")


def _command(plugin: EntryPoint) -> Any:
    guarded = functools.partial(_translate, plugin)
    function = guarded(plugin.load)()

    @functools.wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        return guarded(function)(*arguments, **options)

    alone = typer.Typer(add_completion=False)
    alone.command(plugin.name)(call)
    return typer.main.get_command(alone)


def _translate(plugin: EntryPoint, function: Callable[..., Any]) -> Callable[..., Any]:
    """Turn a package that is not installed into the pip line that brings it."""

    @functools.wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        try:
            return function(*arguments, **options)
        except ModuleNotFoundError as error:
            package = plugin.module.partition(".")[0]
            missing = (error.name or "").partition(".")[0]
            # A missing module of the plugin's own is a defect, not a missing extra.
            if not missing or (missing in {"offramp", package} and _is_there(missing)):
                raise
            extra = package.removeprefix("offramp_")
            raise MissingExtraError(
                f"offramp {plugin.name} needs the package {missing!r}, which is not installed; "
                f'run: pip install "offramp[{extra}]"'
            ) from error

    return call


def _is_there(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _summary(plugin: EntryPoint) -> str:
    """The first line of the function's docstring, read from the source and not by importing it."""
    package, *modules = plugin.module.split(".")
    specification = importlib.util.find_spec(package)
    for folder in (specification and specification.submodule_search_locations) or ():
        source = Path(folder, *modules).with_suffix(".py")
        if source.is_file():
            for node in ast.parse(source.read_bytes()).body:
                if isinstance(node, ast.FunctionDef) and node.name == plugin.attr:
                    return (ast.get_docstring(node) or "").partition("\n\n")[0]
    return f"Added by {plugin.module}."
