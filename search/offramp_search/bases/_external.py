"""Bases that are not ours: a factory in any module, and timm's networks."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from offramp._optional import require
from offramp.errors import DataError
from offramp_export.network import Preprocess
from offramp_search.bases._base import Base

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["from_factory", "from_timm"]


def from_factory(name: str, num_classes: int) -> Base:
    """Call ``module:factory`` with the number of classes.

    The factory returns the network, or the network and its :class:`Preprocess`. Modules in the
    working directory can be imported.

    Raises:
        DataError: There is no such module or factory, or it returns something else.
    """
    module_name, _, factory_name = name.partition(":")
    factory = getattr(_import(module_name, name), factory_name, None)
    if not callable(factory):
        raise DataError(
            f"The base {name!r} was not found: module {module_name!r} has no function "
            f"{factory_name!r}."
        )
    made = factory(num_classes)
    module, preprocess = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(module, nn.Module) or not isinstance(preprocess, Preprocess | None):
        raise DataError(
            f"The factory {name!r} must return a torch module, or a torch module and a "
            f"Preprocess; it returned {type(made).__name__}."
        )
    return Base(name, module, preprocess or Preprocess())


def _import(module_name: str, name: str) -> ModuleType:
    folder = str(Path.cwd())
    added = folder not in sys.path
    if added:
        sys.path.insert(0, folder)
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name != module_name.partition(".")[0] and error.name != module_name:
            raise  # the module is there and misses something itself
        raise DataError(
            f"The base {name!r} was not found: there is no module {module_name!r} in the working "
            "directory or among the installed packages."
        ) from error
    finally:
        if added:
            sys.path.remove(folder)


def from_timm(name: str, num_classes: int) -> Base:
    """Create ``timm:NAME`` with random weights and the model's own normalisation.

    Raises:
        MissingExtraError: timm is not installed.
        DataError: timm cannot be imported beside this torch, or has no such model.
    """
    try:
        timm = require("timm", extra="search")
    except (RuntimeError, AttributeError, OSError) as error:
        # A torchvision built for another torch fails this way while timm imports it.
        raise DataError(
            f"timm is installed but cannot be imported beside this torch ({error}); "
            "install a torchvision of the same build as torch, or give the network as "
            "module:factory."
        ) from error
    model_name = name.partition(":")[2]
    if model_name not in timm.list_models():
        raise DataError(f"timm has no model {model_name!r}; timm.list_models() lists those it has.")
    module = timm.create_model(model_name, pretrained=False, num_classes=num_classes)
    config = module.pretrained_cfg
    return Base(name, module, Preprocess(config["mean"], config["std"]))
