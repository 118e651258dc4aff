"""Bundles signed by somebody whom an authority certified."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from offramp.bundle import Bundle
from offramp.errors import SignatureError
from offramp.signing import (
    CertificateSigner,
    KeySigner,
    TrustedCertificates,
    TrustedKey,
    signature_path,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    MakeAuthority = Callable[..., Any]


def _sign(bundle: Bundle, authority: Any) -> None:
    CertificateSigner(authority.private, authority.certificate, authority.middle).sign(bundle)


def test_a_certified_signer(bundle: Bundle, make_authority: MakeAuthority) -> None:
    authority = make_authority("ours")
    _sign(bundle, authority)
    opened = Bundle.open(bundle.path, trust=TrustedCertificates(authority.root))
    assert opened.manifest == bundle.manifest


def test_one_of_several_authorities(bundle: Bundle, make_authority: MakeAuthority) -> None:
    authority, other = make_authority("ours"), make_authority("theirs")
    _sign(bundle, authority)
    Bundle.open(bundle.path, trust=TrustedCertificates(other.root, authority.root))


def test_another_authority(bundle: Bundle, make_authority: MakeAuthority) -> None:
    authority, other = make_authority("ours"), make_authority("theirs")
    _sign(bundle, authority)
    with pytest.raises(SignatureError, match="not from a trusted authority"):
        Bundle.open(bundle.path, trust=TrustedCertificates(other.root))
    # A namesake is somebody else.
    with pytest.raises(SignatureError, match="not from a trusted authority"):
        Bundle.open(bundle.path, trust=TrustedCertificates(make_authority("ours").root))


def test_a_chain_with_a_hole(bundle: Bundle, make_authority: MakeAuthority) -> None:
    authority = make_authority("ours")
    CertificateSigner(authority.private, authority.certificate).sign(bundle)
    with pytest.raises(SignatureError, match="not from a trusted authority"):
        Bundle.open(bundle.path, trust=TrustedCertificates(authority.root))


def test_a_certificate_that_is_not_for_signing(
    bundle: Bundle, make_authority: MakeAuthority
) -> None:
    authority = make_authority("ours", may_sign=False)
    _sign(bundle, authority)
    with pytest.raises(SignatureError, match="is refused"):
        Bundle.open(bundle.path, trust=TrustedCertificates(authority.root))


def test_an_expired_certificate_counts_as_when_it_was_issued(
    bundle: Bundle, make_authority: MakeAuthority
) -> None:
    authority = make_authority("ours", expired=True)
    _sign(bundle, authority)
    Bundle.open(bundle.path, trust=TrustedCertificates(authority.root))


def test_a_changed_byte(bundle: Bundle, make_authority: MakeAuthority) -> None:
    authority = make_authority("ours")
    _sign(bundle, authority)
    path = bundle.path / "litert" / "int8.tflite"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(SignatureError, match=r"litert/int8\.tflite was changed"):
        Bundle.open(bundle.path, trust=TrustedCertificates(authority.root))


def test_the_key_of_another_certificate(bundle: Bundle, make_authority: MakeAuthority) -> None:
    authority, other = make_authority("ours"), make_authority("theirs")
    signer = CertificateSigner(other.private, authority.certificate, authority.middle)
    with pytest.raises(SignatureError, match="does not match the public key"):
        signer.sign(bundle)
    assert not signature_path(bundle.path).exists()


def test_keys_and_certificates_are_not_mixed_up(
    bundle: Bundle, make_authority: MakeAuthority, make_key: Callable[..., Any]
) -> None:
    authority, key = make_authority("ours"), make_key("key")
    _sign(bundle, authority)
    with pytest.raises(SignatureError, match="is refused"):
        Bundle.open(bundle.path, trust=TrustedKey(key.public))
    KeySigner(key.private).sign(bundle)
    with pytest.raises(SignatureError, match="is refused"):
        Bundle.open(bundle.path, trust=TrustedCertificates(authority.root))


def test_trusting_nobody_in_particular() -> None:
    with pytest.raises(ValueError, match="expected at least one"):
        TrustedCertificates()
