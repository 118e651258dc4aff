"""``offramp sign``, and ``offramp verify`` with somebody to trust."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from offramp.signing import signature_path

pytest.importorskip("model_signing", reason="the extra signing is not installed")

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from offramp.bundle import Bundle


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """As the documentation makes one."""
    path = tmp_path / "key.pem"
    curve = ("-name", "prime256v1", "-genkey", "-noout")
    try:
        subprocess.run(["openssl", "ecparam", *curve, "-out", path], check=True)
    except FileNotFoundError:
        pytest.skip("there is no openssl command here")
    subprocess.run(
        ["openssl", "ec", "-in", path, "-pubout", "-out", tmp_path / "key.pub"],
        check=True,
        capture_output=True,
    )
    return path


def test_sign_and_verify(bundle: Bundle, key: Path, offramp: Callable[..., Any]) -> None:
    done = offramp("sign", bundle.path, "--key", key, "--json")
    assert (done.code, done.err) == (0, "")
    assert done.json["signature"] == str(signature_path(bundle.path))
    assert "manifest.json" in done.json["files"]
    trusted = ("--trusted-key", key.with_suffix(".pub"))
    done = offramp("verify", bundle.path, *trusted)
    assert done.code == 0, done.err
    assert done.out.startswith("signature: ok\n")
    assert offramp("verify", bundle.path, *trusted, "--json").json["signed"] is True
    assert offramp("verify", bundle.path, "--json").json["signed"] is False
    (bundle.path / "extra").write_bytes(b"")
    done = offramp("verify", bundle.path, *trusted)
    assert done.code == 2
    assert "extra is not signed" in done.err
    assert done.err.count("\n") == 1


def test_a_signature_elsewhere(
    bundle: Bundle, key: Path, tmp_path: Path, offramp: Callable[..., Any]
) -> None:
    place = tmp_path / "elsewhere.sig"
    done = offramp("sign", bundle.path, "--key", key, "--signature", place)
    assert (done.code, done.out) == (0, "Signed 4 files: elsewhere.sig\n")
    trusted = ("--trusted-key", key.with_suffix(".pub"))
    assert offramp("verify", bundle.path, *trusted, "--signature", place).code == 0
    done = offramp("verify", bundle.path, *trusted)
    assert done.code == 2
    assert "has no signature at" in done.err


@pytest.mark.parametrize(
    ("command", "options", "message"),
    [
        ("verify", ["--signature", "x"], "takes --trusted-key or"),
        ("verify", ["--trusted-key", "x", "--trusted-certificate", "y"], "not both"),
        ("sign", ["--key", "x", "--chain", "y"], "takes --certificate"),
        ("sign", ["--key", "x", "--certificate", "y", "--password", "z"], "not be encrypted"),
        ("sign", ["--key", "nowhere.pem"], "there is no file nowhere.pem"),
        ("sign", [], "--key"),
    ],
)
def test_options_that_do_not_fit(
    bundle: Bundle,
    offramp: Callable[..., Any],
    command: str,
    options: list[str],
    message: str,
) -> None:
    done = offramp(command, bundle.path, *options)
    assert done.code == 2
    assert message in " ".join(done.err.replace("│", " ").split())
