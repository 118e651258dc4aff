"""ExecuTorch programs: the contract in both engines, and torch only where it is asked for."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest

from offramp.bundle import Bundle
from offramp.errors import MissingExtraError, ProgramError
from offramp.runtimes import _shim, build_shim, find_shim, installed_runtimes, open_runtime
from offramp.runtimes._executorch_shim import ShimEngine
from offramp.runtimes._staged import StagedRuntime
from offramp.testing import BundleContract, RuntimeCase, RuntimeContract

if TYPE_CHECKING:
    from pathlib import Path

Python = Any
replace = msgspec.structs.replace

CONTRACT = """
import sys
sys.argv = ["x", {bundle!r}, "--program", "executorch/float32", "--runtime", {runtime!r}]
import runpy
try:
    runpy.run_module("offramp.testing", run_name="__main__")
finally:
    print("imported", sorted({{"torch", "executorch"}} & set(sys.modules)))
"""


class TestShim(RuntimeContract):
    @pytest.fixture(autouse=True)
    def _bundle(self, executorch_bundle: Bundle, shim: Path) -> None:
        self.contract = BundleContract(
            executorch_bundle, "executorch/float32", runtime="executorch-shim"
        )

    def case(self) -> RuntimeCase:
        return self.contract.case()


def _edges(bundle: Bundle) -> tuple[bytes, Any]:
    entry = bundle.program("executorch/float32")
    return bundle.read(entry.files[0]), entry.stages


def test_the_contract_holds_where_torch_cannot_be_imported(
    executorch_bundle: Bundle, shim: Path, python: Python
) -> None:
    script = CONTRACT.format(bundle=str(executorch_bundle.path), runtime="executorch-shim")
    done = python(script)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "executorch/float32 in executorch 1." in done.stdout
    assert "(shim)" in done.stdout
    assert done.stdout.endswith(" 0 failed\nimported []\n")
    assert done.stderr == ""


@pytest.mark.slow
def test_the_contract_holds_in_torch(executorch_bundle: Bundle, python: Python) -> None:
    script = CONTRACT.format(bundle=str(executorch_bundle.path), runtime="executorch-torch")
    done = python(script, torch=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "(torch)" in done.stdout
    assert done.stdout.endswith(" 0 failed\nimported ['executorch', 'torch']\n")


def test_torch_is_the_choice_where_the_shim_is_not_built(
    executorch_bundle: Bundle, python: Python, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    code = f"""
from offramp.bundle import Bundle
from offramp.runtimes import choose_runtime, describe_runtime
entry = Bundle.open({str(executorch_bundle.path)!r}).program("executorch/float32")
print(choose_runtime(entry).name, describe_runtime(entry))
"""
    assert python(code).stdout.startswith("executorch-torch executorch 1.")
    without = """
import sys
class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, NoTorch())
"""
    done = python(without + code, torch=True)
    assert "needs a runtime that is not installed here; run `pip install" in done.stderr
    assert "`offramp build-shim`" in done.stderr


def test_the_choice_is_told(executorch_bundle: Bundle, shim: Path) -> None:
    assert list(installed_runtimes()) == ["litert", "executorch-shim", "executorch-torch"]
    with open_runtime(executorch_bundle, "executorch/float32") as runtime:
        assert runtime.engine == installed_runtimes()["executorch-shim"]
    with pytest.raises(ProgramError, match="choose executorch-shim or executorch-torch"):
        open_runtime(executorch_bundle, "executorch/float32", runtime="litert")
    with pytest.raises(MissingExtraError, match=r"tflite-runtime, which is not .* 3\.11"):
        open_runtime(executorch_bundle, "litert/float32", runtime="tflite-runtime")


def test_programs_that_only_apps_run(executorch_bundle: Bundle) -> None:
    entry = replace(executorch_bundle.program("executorch/float32"), runtime="coreml")
    manifest = replace(executorch_bundle.manifest, programs=(entry,))
    changed = Bundle(executorch_bundle.path, manifest, executorch_bundle._source)
    with pytest.raises(ProgramError, match="coreml/float32 runs in apps only"):
        open_runtime(changed, "coreml/float32")


@pytest.mark.parametrize("cut", [0.0, 0.01, 0.25, 0.5, 0.75, 0.9, 0.999])
def test_truncated_programs_are_refused(executorch_bundle: Bundle, shim: Path, cut: float) -> None:
    data, stages = _edges(executorch_bundle)
    with pytest.raises(
        ProgramError, match=r"could not load the program: the file was refused: .*\("
    ):
        StagedRuntime(ShimEngine(data[: int(len(data) * cut)], shim), stages)


def test_programs_that_are_not_what_the_manifest_says(
    executorch_bundle: Bundle, shim: Path
) -> None:
    data, stages = _edges(executorch_bundle)

    def opened(changed: Any) -> StagedRuntime:
        return StagedRuntime(ShimEngine(data, shim), changed)

    with pytest.raises(ProgramError, match="has the signatures"):
        opened(stages[:2])
    first, *rest = stages
    logits = replace(first.outputs[0], shape=(1, 6))
    with pytest.raises(ProgramError, match=r"output 0 of stage_0 is float32 \(1, 5\)"):
        opened((replace(first, outputs=(logits, *first.outputs[1:])), *rest))
    with pytest.raises(ProgramError, match="1 inputs and 3 outputs, the manifest lists 1 and 1"):
        opened((replace(first, outputs=first.outputs[:1]), *rest))


def test_threads(executorch_bundle: Bundle, shim: Path) -> None:
    """Programs of one thread stand alone; the others agree on the pool of the process."""
    recorded = executorch_bundle.vectors().logits["executorch/float32"]
    image = executorch_bundle.vectors().images[0]
    name = "executorch/float32"
    with (
        open_runtime(executorch_bundle, name, threads=2) as two,
        open_runtime(executorch_bundle, name, threads=1) as one,
        open_runtime(executorch_bundle, name, threads=2) as another,
    ):
        for runtime in (two, one, another):
            runtime.start(image)
            np.testing.assert_allclose(runtime.run(0), recorded[0, 0], atol=1e-4)
        with pytest.raises(ProgramError, match="runs with 2 threads, and they share one pool"):
            open_runtime(executorch_bundle, name, threads=3)
    with open_runtime(executorch_bundle, name, threads=3) as three:
        three.start(image)
        np.testing.assert_allclose(three.run(0), recorded[0, 0], atol=1e-4)
    with pytest.raises(ValueError, match="threads is 0"):
        open_runtime(executorch_bundle, name, threads=0)


def test_a_shim_that_others_could_have_written_is_not_taken(
    shim: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert find_shim() is None
    (tmp_path / "offramp").mkdir()
    copy = tmp_path / "offramp" / shim.name
    shutil.copy(shim, copy)
    assert find_shim() == copy
    copy.chmod(0o777)
    assert find_shim() is None


def test_a_shim_that_is_there_is_not_built_again(shim: Path) -> None:
    before = shim.stat()
    assert build_shim() == shim
    assert shim.stat().st_ino == before.st_ino


def test_a_shim_for_all_users(shim: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    compiler = tmp_path / "compiler"
    compiler.write_text(f"""#!/bin/sh
while [ "$1" != -o ]; do shift; done
cp '{shim}' "$2"
""")
    compiler.chmod(0o755)
    monkeypatch.setattr(_shim, "environment_folder", lambda: tmp_path / "environment")
    made = build_shim(compiler=str(compiler), for_all_users=True, force=True)
    assert made == tmp_path / "environment" / shim.name
    assert find_shim() == made
    assert made.stat().st_mode & 0o777 == 0o755


def test_what_is_missing_to_build_it(shim: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ProgramError, match=r"no C\+\+ compiler no-such-compiler"):
        build_shim(compiler="no-such-compiler", force=True)
    monkeypatch.setenv("CXX", "false")
    with pytest.raises(ProgramError, match="false could not build the shim for executorch 1"):
        build_shim(force=True)
    monkeypatch.setattr(_shim, "executorch_version", lambda: None)
    with pytest.raises(MissingExtraError, match=r'pip install "offramp\[executorch\]"'):
        build_shim(force=True)
    assert find_shim() is None


def test_a_shim_that_does_not_load(executorch_bundle: Bundle, tmp_path: Path) -> None:
    data, _ = _edges(executorch_bundle)
    (tmp_path / "shim.so").write_bytes(b"no library")
    with pytest.raises(ProgramError, match="build-shim --force"):
        ShimEngine(data, tmp_path / "shim.so")
