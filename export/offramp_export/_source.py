"""Stages from a user's own factory, as the command line names it."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING

import typer
from torch import nn

from offramp.errors import ExportError
from offramp_export.cut import cut
from offramp_export.network import Preprocess
from offramp_export.weights import load_weights

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["load_stages"]

_CHANNELS = 3


def load_stages(
    source: str,
    factory_args: Sequence[str],
    *,
    weights: Path | None,
    exits: Sequence[str],
    normalisation: tuple[str | None, str | None],
    image_size: tuple[int, int],
) -> Sequence[nn.Module]:
    """Call a factory, load its weights, and cut what it returned if it is one network.

    Args:
        source: ``MODULE:FACTORY``.
        factory_args: ``KEY=VALUE``, handed to the factory as text.
        weights: A safetensors file for all that the factory returned.
        exits: See ``cut``.
        normalisation: Mean and standard deviation, ``"0.5,0.5,0.5"``; for one network alone.
        image_size: Height and width.

    Raises:
        ExportError: There is no such factory, or it returned something else.
        DataError: The weights do not fit.
    """
    made = _call(source, factory_args)
    single = isinstance(made, nn.Module) and not isinstance(made, nn.Sequential | nn.ModuleList)
    if single and not hasattr(made, "stages"):
        assert isinstance(made, nn.Module)
        if weights is not None:
            load_weights(made, weights)
        mean, std = (
            _three(text, option)
            for text, option in zip(normalisation, ("--mean", "--std"), strict=True)
        )
        return cut(made, image_size, preprocess=Preprocess(mean, std), exits=exits)
    if exits or any(normalisation):
        raise ExportError(
            f"{source} returned stages, and --exit, --mean and --std are for one network that is "
            "to be cut; stage 0 normalises the image itself, with Preprocess"
        )
    try:
        stages: list[nn.Module] = list(getattr(made, "stages", made))  # type: ignore[call-overload]
    except TypeError:
        raise ExportError(
            f"{source} returned {type(made).__name__}, expected a sequence of stages, or one "
            "torch module"
        ) from None
    if weights is not None:
        load_weights(made if isinstance(made, nn.Module) else nn.ModuleList(stages), weights)
    return stages


def _call(source: str, factory_args: Sequence[str]) -> object:
    module_name, separator, name = source.partition(":")
    if not (module_name and separator and name):
        raise typer.BadParameter(f"got {source!r}, expected MODULE:FACTORY, such as nets:build")
    arguments = dict(_split_argument(argument) for argument in factory_args)
    # A console script does not look for modules where it is started; `python` does.
    if "" not in sys.path:
        sys.path.insert(0, "")
    module = importlib.import_module(module_name)
    factory = getattr(module, name, None)
    if not callable(factory):
        raise ExportError(f"{module_name} has no function {name!r}; expected one that makes stages")
    made: object = factory(**arguments)
    return made


def _three(text: str | None, option: str) -> tuple[float, ...]:
    if text is None:
        raise ExportError(
            f"{option} is missing: a network that is not given as stages needs the mean and the "
            "standard deviation it was trained with, such as --mean 0.485,0.456,0.406 "
            "--std 0.229,0.224,0.225"
        )
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if len(values) != _CHANNELS:
        raise typer.BadParameter(
            f"{option} is {text!r}, expected three numbers, such as 0.5,0.5,0.5"
        )
    return values


def _split_argument(argument: str) -> tuple[str, str]:
    key, separator, value = argument.partition("=")
    if not (key.isidentifier() and separator):
        raise typer.BadParameter(f"got {argument!r}, expected KEY=VALUE")
    return key, value
