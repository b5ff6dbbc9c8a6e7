"""A development certificate authority with one server and one client certificate.

For one machine, a lab or a compose file. Keys are written unencrypted, readable by their owner
only; existing files are never replaced.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

VALID_DAYS: Final = 825  # the longest that common TLS stacks accept from a private authority


@dataclass(frozen=True, slots=True)
class Certificates:
    """Where the files are."""

    ca_certificate: Path
    ca_key: Path
    server_certificate: Path
    server_key: Path
    client_certificate: Path
    client_key: Path


def make_certificates(
    folder: Path, hosts: Sequence[str], *, valid_days: int = VALID_DAYS
) -> Certificates:
    """Write an authority, a server certificate for `hosts` and a client certificate, as PEM.

    hosts: names and IP addresses by which clients reach the gateway. FileExistsError if one of
    the files is there already.
    """
    made = Certificates(
        *(
            folder / f"{name}.{kind}"
            for name in ("ca", "server", "client")
            for kind in ("pem", "key")
        )
    )
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    days = datetime.timedelta(days=valid_days)
    ca_key = _key()
    ca_name = _name("farspan development authority")
    ca = (
        _builder(ca_name, ca_name, ca_key.public_key(), days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(authority=True), critical=True)
        .sign(ca_key, hashes.SHA256())
    )
    _write(made.ca_certificate, ca.public_bytes(serialization.Encoding.PEM))
    _write(made.ca_key, _pem(ca_key))
    for name, purpose, certificate, key_path in (
        ("server", ExtendedKeyUsageOID.SERVER_AUTH, made.server_certificate, made.server_key),
        ("client", ExtendedKeyUsageOID.CLIENT_AUTH, made.client_certificate, made.client_key),
    ):
        key = _key()
        builder = _builder(_name(f"farspan {name}"), ca_name, key.public_key(), days)
        if name == "server":
            names = x509.SubjectAlternativeName([_host(host) for host in hosts])
            builder = builder.add_extension(names, critical=False)
        signed = (
            builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(authority=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
            .sign(ca_key, hashes.SHA256())
        )
        _write(certificate, signed.public_bytes(serialization.Encoding.PEM))
        _write(key_path, _pem(key))
    return made


def _key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    days: datetime.timedelta,
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))  # clocks differ
        .not_valid_after(now + days)
    )


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _write(path: Path, data: bytes) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
