"""Certificates and node keys for a deployment on one machine: TLS, and node authentication.

Neither protects a client from the server: what the parties sign for each other does (their
identities are others, `pilot_secure.flower.party_folder`). A real deployment has certificates of
its own.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import NameOID

from pilot_secure.files import make_private_folder, write_atomically

CA, CERTIFICATE, KEY = "ca.pem", "server.pem", "server.key"
LOOPBACK = "127.0.0.1"
VALID_FOR = timedelta(days=30)
_CURVE = ec.SECP384R1


def make_credentials(folder: Path, nodes: Iterable[str]) -> None:
    """Write a certificate authority's and a server's certificate, and a key pair for each node.

    The authority's key is not kept. A node's public key is ``<node>.pub``.
    """
    make_private_folder(folder)
    authority, own = ec.generate_private_key(_CURVE()), ec.generate_private_key(_CURVE())
    root = _certificate("pilot-secure loopback authority", authority, authority, None)
    write_atomically(folder / CA, root.public_bytes(Encoding.PEM))
    server = _certificate(LOOPBACK, own, authority, root)
    write_atomically(folder / CERTIFICATE, server.public_bytes(Encoding.PEM))
    secret = own.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    write_atomically(folder / KEY, secret, mode=0o600)
    for node in nodes:
        key = ec.generate_private_key(_CURVE())
        secret = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
        write_atomically(folder / node, secret, mode=0o600)
        public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
        write_atomically(folder / f"{node}.pub", public)


def _certificate(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: ec.EllipticCurvePrivateKey,
    issued_by: x509.Certificate | None,
) -> x509.Certificate:
    """An authority's own certificate, or the server's on the loopback addresses."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issued_by is None else issued_by.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + VALID_FOR)
        .add_extension(x509.BasicConstraints(issued_by is None, None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key()), critical=False
        )
        .add_extension(_usage(authority=issued_by is None), critical=True)
    )
    if issued_by is not None:
        addresses = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address(LOOPBACK))]
        builder = builder.add_extension(x509.SubjectAlternativeName(addresses), critical=False)
    return builder.sign(issuer, SHA256())


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
