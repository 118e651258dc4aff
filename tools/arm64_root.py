"""Make a small arm64 Debian with this project installed, and run programs in it by emulation.

    python tools/arm64_root.py ROOT                  # make it, or bring it up to date
    python tools/arm64_root.py ROOT -- -m offramp …  # and run its Python with these arguments

What `pip install offramp` brings on an arm64 board is installed by the root's own pip: the wheel
of this checkout, and the aarch64 wheels of its dependencies. Needs Debian or the like (apt-get,
dpkg-deb), unshare, and root for the chroot. Packages come from where this machine's apt has them,
and wheels from where its pip has them; both are kept in ROOT.downloads, and used again.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
PYTHON = "python3.11"
DEBIAN_PACKAGES = (
    *("python3.11-minimal", "libpython3.11-minimal", "libpython3.11-stdlib", "python3.11"),
    *("python3-pip-whl", "python3-setuptools-whl", "libc6", "libstdc++6", "libgcc-s1", "zlib1g"),
    *("libexpat1", "libffi8", "libssl3", "libbz2-1.0", "liblzma5", "libsqlite3-0", "libuuid1"),
    *("libcrypt1", "libncursesw6", "libtinfo6", "libreadline8", "media-types"),
)
EMULATOR = "qemu-aarch64-static"
PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux2014_aarch64")
SITE = "opt/offramp"
CPUS = "sys/devices/system/cpu"
STARTER = "usr/bin/emulated-python"
# This machine's kernel starts no arm64 file, but it starts a script by the emulator named in it.
STARTER_SCRIPT = f"""#!/usr/bin/{EMULATOR} /usr/bin/{PYTHON}
import sys

place = sys.argv.index("-c") + 1
code, sys.argv = sys.argv[place], ["-c", *sys.argv[place + 1 :]]
exec(compile(code, "<string>", "exec"))
"""
SITE_CUSTOMIZE = f"""import multiprocessing

multiprocessing.set_executable("/{STARTER}")
"""


class CannotRunError(RuntimeError):
    """This machine cannot do it; the message says why."""


def check_machine() -> None:
    """See whether this machine can make and enter the root.

    Raises:
        CannotRunError: It cannot.
    """
    for program in ("apt-get", "dpkg-deb", "unshare", "chroot"):
        if shutil.which(program) is None:
            raise CannotRunError(f"there is no {program}; a Debian machine has it")
    if os.geteuid() != 0:
        raise CannotRunError("a chroot takes root")
    entered = subprocess.run(["unshare", "--mount", "true"], capture_output=True, text=True)
    if entered.returncode:
        raise CannotRunError(f"unshare is not allowed here: {entered.stderr.strip()}")


def make_root(root: Path) -> None:
    """Make the root, or bring the project in it up to date.

    Args:
        root: The folder; downloads are kept beside it.

    Raises:
        CannotRunError: This machine cannot.
        subprocess.CalledProcessError: A download or an installation failed.
    """
    check_machine()
    downloads = root.with_name(f"{root.name}.downloads")
    debs, wheels = downloads / "debs", downloads / "wheels"
    _download_debs(downloads, debs)
    wheel = _build_wheel(downloads / "project")
    _download_wheels(wheel, wheels)
    stamp = root / "complete"
    made_of = _fingerprint(debs, wheels)
    if not stamp.exists() or stamp.read_text() != made_of:
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir(parents=True)
        for deb in sorted(debs.glob("*_arm64.deb")) + sorted(debs.glob("*_all.deb")):
            subprocess.run(["dpkg-deb", "-x", deb, root], check=True)
        for folder in ("proc", "dev", "tmp", CPUS, SITE, "wheels"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        # The kernels' library asks for them; the rest of this machine's /sys is of another kind.
        for name in ("possible", "present"):
            (root / CPUS / name).write_text("0-1\n")
        shutil.copy(_emulator(downloads, debs), root / "usr/bin" / EMULATOR)
        for file in wheels.glob("*.whl"):
            shutil.copy(file, root / "wheels")
    for old in (root / "wheels").glob("offramp-*.whl"):
        old.unlink()
    shutil.copy(wheel, root / "wheels")
    _install(root, whole=not stamp.exists())
    (root / STARTER).write_text(STARTER_SCRIPT)
    (root / STARTER).chmod(0o755)
    # A program that is new on a machine is tried in another Python.
    (root / SITE / "sitecustomize.py").write_text(SITE_CUSTOMIZE)
    stamp.write_text(made_of)


def run(
    root: Path, *arguments: str, cpu: str = "cortex-a72", shared: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the root's Python.

    Args:
        root: What ``make_root`` made.
        *arguments: Of Python.
        cpu: The processor to be, as qemu calls it, such as ``cortex-a72``.
        shared: A folder of this machine to see as ``/shared``.

    Returns:
        The finished process, with its output as text.
    """
    mounts = ["mount -t proc proc proc", "mount --rbind /dev dev"]
    if shared is not None:
        (root / "shared").mkdir(exist_ok=True)
        mounts.append(f'mount --bind "{shared}" shared')
    script = f'set -e; {"; ".join(mounts)}; exec chroot . /usr/bin/{EMULATOR} "$@"'
    return subprocess.run(
        [
            *("unshare", "--mount", "sh", "-c", script, "sh", "-cpu", cpu),
            *("-E", f"PYTHONPATH=/{SITE}", "-E", "HOME=/tmp", "-E", f"QEMU_CPU={cpu}"),
            *(f"/usr/bin/{PYTHON}", *arguments),
        ],
        cwd=root,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"},
        capture_output=True,
        text=True,
    )


def _apt(downloads: Path, *arguments: str, cwd: Path) -> None:
    """This machine's apt, for arm64, in folders of its own."""
    native = subprocess.run(
        ["dpkg", "--print-architecture"], check=True, capture_output=True, text=True
    ).stdout.strip()
    state = downloads / "apt"
    for folder in ("lists/partial", "archives/partial"):
        (state / folder).mkdir(parents=True, exist_ok=True)
    (state / "status").touch()
    options = {
        "APT::Architecture": "arm64",
        "APT::Architectures::": native,
        "APT::Sandbox::User": "root",
        "Acquire::Languages": "none",
        "Dir::State": str(state),
        "Dir::State::lists": str(state / "lists"),
        "Dir::State::status": str(state / "status"),
        "Dir::Cache": str(state),
        "Dir::Cache::archives": str(state / "archives"),
    }
    command = ["apt-get", "-q", "-q"]
    for name, value in options.items():
        command += ["-o", f"{name}={value}"]
    _quietly([*command, *arguments], cwd=cwd)


def _download_debs(downloads: Path, debs: Path) -> None:
    debs.mkdir(parents=True, exist_ok=True)
    wanted = [name for name in DEBIAN_PACKAGES if not list(debs.glob(f"{name}_*.deb"))]
    emulator = shutil.which(EMULATOR) is None and not list(debs.glob("qemu-user-static_*.deb"))
    if wanted or emulator:
        _apt(downloads, "update", cwd=debs)
        native = subprocess.run(
            ["dpkg", "--print-architecture"], check=True, capture_output=True, text=True
        ).stdout.strip()
        names = [*wanted, *([f"qemu-user-static:{native}"] if emulator else [])]
        _apt(downloads, "download", *names, cwd=debs)


def _emulator(downloads: Path, debs: Path) -> Path:
    installed = shutil.which(EMULATOR)
    if installed is not None:
        return Path(installed)
    (deb,) = debs.glob("qemu-user-static_*.deb")
    unpacked = downloads / "qemu"
    subprocess.run(["dpkg-deb", "-x", deb, unpacked], check=True)
    return unpacked / "usr/bin" / EMULATOR


def _build_wheel(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    _quietly([*pip, "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(PROJECT)])
    (wheel,) = folder.glob("offramp-*.whl")
    return wheel


def _download_wheels(wheel: Path, wheels: Path) -> None:
    """The dependencies as the board's pip would choose them, at the versions that are tested."""
    metadata = hashlib.sha256((PROJECT / "pyproject.toml").read_bytes())
    metadata.update((PROJECT / "constraints.txt").read_bytes())
    stamp = wheels / "complete"
    if stamp.exists() and stamp.read_text() == metadata.hexdigest():
        return
    shutil.rmtree(wheels, ignore_errors=True)
    wheels.mkdir(parents=True)
    platforms = [part for name in PLATFORMS for part in ("--platform", name)]
    _quietly(
        [
            *(sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet"),
            *("--only-binary=:all:", *platforms, "--python-version", "3.11"),
            *("--implementation", "cp", "--constraint", str(PROJECT / "constraints.txt")),
            *("--dest", str(wheels), str(wheel)),
        ]
    )
    for project in wheels.glob("offramp-*.whl"):
        project.unlink()
    stamp.write_text(metadata.hexdigest())


def _fingerprint(*folders: Path) -> str:
    names = sorted(file.name for folder in folders for file in folder.iterdir())
    return hashlib.sha256("\n".join(names).encode()).hexdigest()


def _install(root: Path, *, whole: bool) -> None:
    (pip,) = (root / "usr/share/python-wheels").glob("pip-*.whl")
    how = [] if whole else ["--no-deps", "--upgrade"]
    done = run(
        root,
        *(f"/usr/share/python-wheels/{pip.name}/pip", "install", "--no-index", "--no-compile"),
        *("--disable-pip-version-check", "--root-user-action=ignore", "--no-warn-script-location"),
        *("--find-links", "/wheels", "--target", f"/{SITE}", *how, "offramp"),
    )
    if done.returncode:
        raise CannotRunError(f"pip failed in the root: {done.stdout}{done.stderr}")


def _quietly(command: list[str], cwd: Path | None = None) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    if done.returncode:
        raise CannotRunError(f"{' '.join(command[:3])} … failed: {done.stderr.strip()}")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("root", type=Path)
    parser.add_argument("--shared", type=Path, help="a folder to see as /shared")
    parser.add_argument("--cpu", default="cortex-a72", help="the processor to be, as qemu calls it")
    parser.add_argument("arguments", nargs="*", help="of the root's Python, after --")
    given = parser.parse_args()
    try:
        make_root(given.root.resolve())
    except CannotRunError as error:
        sys.exit(f"arm64_root: {error}")
    if given.arguments:
        done = run(given.root.resolve(), *given.arguments, cpu=given.cpu, shared=given.shared)
        sys.stdout.write(done.stdout)
        sys.stderr.write(done.stderr)
        sys.exit(done.returncode)


if __name__ == "__main__":
    main()
