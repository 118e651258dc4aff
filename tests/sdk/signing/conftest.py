"""Real keys, and a real authority with certificates."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("model_signing", reason="the extra signing is not installed")

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@dataclass(frozen=True)
class KeyPair:
    """PEM files of the two halves."""

    private: Path
    public: Path


@dataclass(frozen=True)
class Authority:
    """PEM files: the authority, one between, and a signer's key and certificate."""

    root: Path
    middle: Path
    certificate: Path
    private: Path


def write_private(
    path: Path, key: ec.EllipticCurvePrivateKey, password: bytes | None = None
) -> Path:
    encryption = (
        serialization.BestAvailableEncryption(password)
        if password
        else serialization.NoEncryption()
    )
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    )
    return path


@pytest.fixture
def make_key(tmp_path: Path) -> Callable[..., KeyPair]:
    def make(
        name: str, curve: ec.EllipticCurve | None = None, password: bytes | None = None
    ) -> KeyPair:
        key = ec.generate_private_key(curve or ec.SECP256R1())
        public = tmp_path / f"{name}.pub"
        public.write_bytes(
            key.public_key().public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        )
        return KeyPair(write_private(tmp_path / f"{name}.pem", key, password), public)

    return make


@pytest.fixture
def make_authority(tmp_path: Path) -> Callable[..., Authority]:
    def make(name: str, *, expired: bool = False, may_sign: bool = True) -> Authority:
        keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(3)]
        names = [
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{name} {part}")])
            for part in ("root", "middle", "signer")
        ]
        start = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
        end = start + datetime.timedelta(days=30 if expired else 36500)
        paths = []
        for place, key in enumerate(keys):
            issuer = max(place - 1, 0)
            is_authority = place < 2
            builder = (
                x509.CertificateBuilder()
                .subject_name(names[place])
                .issuer_name(names[issuer])
                .public_key(key.public_key())
                .serial_number(x509.random_serial_number())
                .not_valid_before(start)
                .not_valid_after(end)
                .add_extension(x509.BasicConstraints(is_authority, None), critical=True)
                .add_extension(
                    x509.KeyUsage(
                        digital_signature=may_sign or is_authority,
                        content_commitment=False,
                        key_encipherment=False,
                        data_encipherment=False,
                        key_agreement=not (may_sign or is_authority),
                        key_cert_sign=is_authority,
                        crl_sign=is_authority,
                        encipher_only=False,
                        decipher_only=False,
                    ),
                    critical=True,
                )
            )
            if not is_authority and may_sign:
                builder = builder.add_extension(
                    x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=False
                )
            certificate = builder.sign(keys[issuer], hashes.SHA256())
            paths.append(tmp_path / f"{name}-{place}.crt")
            paths[-1].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        private = write_private(tmp_path / f"{name}-signer.pem", keys[2])
        return Authority(paths[0], paths[1], paths[2], private)

    return make
