"""Public names, private modules and module sizes; each rule is first shown to fail."""

from __future__ import annotations

import importlib.util
import statistics
from pathlib import Path

import pytest

_SPEC = importlib.util.spec_from_file_location("_rules", Path(__file__).with_name("_rules.py"))
assert _SPEC is not None
assert _SPEC.loader is not None
rules = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(rules)


def test_public_names_are_declared(package: Path) -> None:
    assert rules.public_name_faults(package) == []


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("def f() -> None: ...\n", "module.py: no __all__"),
        ("__all__ = ['f']\n", "module.py: no f"),
    ],
)
def test_the_rule_of_public_names_can_fail(make_package: Path, source: str, fault: str) -> None:
    (make_package / "module.py").write_text(source)
    assert rules.public_name_faults(make_package) == [fault]


def test_private_modules_stay_in_their_folder(package: Path) -> None:
    assert rules.private_import_faults(package) == []


def test_the_rule_of_private_modules_can_fail(make_package: Path) -> None:
    (make_package / "one").mkdir()
    (make_package / "two").mkdir()
    (make_package / "one" / "_hidden.py").write_text("")
    (make_package / "one" / "near.py").write_text("from faulty.one._hidden import x\n")
    (make_package / "two" / "far.py").write_text("from faulty.one._hidden import x\n")
    assert rules.private_import_faults(make_package) == ["two/far.py: imports faulty.one._hidden"]


def test_no_module_is_too_large(package: Path) -> None:
    assert rules.oversized(package) == []


def test_the_median_module_is_small(package: Path) -> None:
    sizes = [path.stat().st_size for path in rules.modules(package) if path.name != "__init__.py"]
    assert statistics.median(sizes) <= 6_000


def test_the_rule_of_sizes_can_fail(make_package: Path) -> None:
    (make_package / "large.py").write_text("#" * (rules.LARGEST_BYTES + 1))
    assert len(rules.oversized(make_package)) == 1


@pytest.mark.parametrize(
    "statement",
    [
        "import offramp",
        "import offramp.cli",
        "import offramp.calibration, offramp.bundle, offramp.images, offramp.policy",
        "import offramp_export.cli",
        "import offramp_search.cli.search",
    ],
)
def test_imports_are_light(statement: str) -> None:
    assert rules.heavy_imports(statement) == []


def test_the_rule_of_light_imports_can_fail() -> None:
    assert "torch" in rules.heavy_imports("import torch")
