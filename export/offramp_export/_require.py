"""Converters are imported when they are needed, and their absence is one sentence."""

from __future__ import annotations

import importlib
from typing import Any

from offramp.errors import MissingExtraError

__all__ = ["require"]


def require(module: str) -> Any:
    """Import a converter, or say which pip line brings it.

    Raises:
        MissingExtraError: The package is not installed. One that is installed but fails to import
            raises its own error.
    """
    package = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != package:
            raise
        raise MissingExtraError(
            f"This target needs the package {package!r}, which is not installed; "
            'run: pip install "offramp[export]"'
        ) from error
