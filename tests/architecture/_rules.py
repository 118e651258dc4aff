"""The rules of the code base as functions of a folder, so that each can be shown to fail."""

from __future__ import annotations

import ast
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HEAVY = (
    "torch",
    "torchao",
    "litert_torch",
    "ai_edge_litert",
    "ai_edge_quantizer",
    "executorch",
    "coremltools",
    "optuna",
    "lightning_fabric",
    "datasets",
    "kornia",
    "matplotlib",
    "jax",
)
"""Packages that take seconds or hundreds of megabytes to import."""

LARGEST_BYTES = 15_360


def modules(folder: Path) -> Iterator[Path]:
    """All Python modules below a folder, in a fixed order."""
    return (path for path in sorted(folder.rglob("*.py")) if "__pycache__" not in path.parts)


def is_public(module: Path, root: Path) -> bool:
    """Whether no part of the module's dotted name starts with one underscore."""
    parts = module.relative_to(root).with_suffix("").parts
    return not any(part.startswith("_") and not part.startswith("__") for part in parts)


def _declared(tree: ast.Module) -> list[str] | None:
    for node in tree.body:
        match node:
            case ast.Assign(targets=[ast.Name(id="__all__")], value=value):
                return list(ast.literal_eval(value))
            case ast.AnnAssign(target=ast.Name(id="__all__"), value=ast.expr() as value):
                return list(ast.literal_eval(value))
    return None


def _defined(tree: ast.Module) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                names.add(name)
            case ast.Assign(targets=targets):
                names |= {target.id for target in targets if isinstance(target, ast.Name)}
            case ast.AnnAssign(target=ast.Name(id=name)):
                names.add(name)
            case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
                names |= {alias.asname or alias.name for alias in aliases}
    return names


def public_name_faults(root: Path) -> list[str]:
    """Modules without ``__all__``, and names in it that the module does not have.

    That it is sorted is a rule of ruff.
    """
    faults = []
    for module in modules(root):
        tree = ast.parse(module.read_text())
        declared = _declared(tree)
        name = str(module.relative_to(root))
        if declared is None:
            if is_public(module, root):
                faults.append(f"{name}: no __all__")
            continue
        faults += [f"{name}: no {missing}" for missing in sorted(set(declared) - _defined(tree))]
    return faults


def private_import_faults(root: Path) -> list[str]:
    """Imports of another folder's private modules: what is private stays in its folder.

    Private modules at the root of a package are the project's: all its packages may use them.
    """
    faults = []
    for module in modules(root):
        own = ".".join(module.relative_to(root.parent).with_suffix("").parts[:-1])
        for node in ast.walk(ast.parse(module.read_text())):
            if not isinstance(node, ast.ImportFrom) or node.module is None or node.level:
                continue
            folder, _, last = node.module.rpartition(".")
            private = last.startswith("_") and not last.startswith("__")
            if private and "." in folder and not f"{own}.".startswith(f"{folder}."):
                faults.append(f"{module.relative_to(root)}: imports {node.module}")
    return faults


def oversized(root: Path) -> list[str]:
    """Modules larger than a reader can hold in mind."""
    return [
        f"{module.relative_to(root)}: {module.stat().st_size} bytes"
        for module in modules(root)
        if module.stat().st_size > LARGEST_BYTES
    ]


def heavy_imports(statement: str) -> list[str]:
    """The heavy packages that a fresh interpreter has loaded after a statement."""
    script = f"{statement}\nimport sys\nprint(*[name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=120
    )
    return done.stdout.split()
