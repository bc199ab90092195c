"""Certificates of the test's own: an authority, and what it signs."""

from __future__ import annotations

import datetime as dt
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_DAY = dt.timedelta(days=1)


class Authority:
    """Signs certificates, and keeps them as PEM files in a directory."""

    def __init__(self, directory: Path, name: str) -> None:
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        basic = x509.BasicConstraints(ca=True, path_length=None)
        self._certificate = _builder(self._name, self._name, self._key).add_extension(basic, critical=True)
        self.file = directory / f"{name}.pem"
        self.file.write_bytes(_pem(self._certificate.sign(self._key, hashes.SHA256())))

    def server(self) -> tuple[Path, Path]:
        """The certificate and key of a server at 127.0.0.1."""
        return self._issue("server", {}, x509.IPAddress(ipaddress.ip_address("127.0.0.1")))

    def client(self, name: str, *, uri: str, unit: str = "") -> tuple[Path, Path]:
        """The certificate and key of a client with this URI, and this organizational unit in its subject."""
        units = {NameOID.ORGANIZATIONAL_UNIT_NAME: unit} if unit else {}
        return self._issue(name, units, x509.UniformResourceIdentifier(uri))

    def _issue(
        self, name: str, more: dict[x509.ObjectIdentifier, str], alternative: x509.GeneralName
    ) -> tuple[Path, Path]:
        key = ec.generate_private_key(ec.SECP256R1())
        parts = {NameOID.COMMON_NAME: name, **more}
        subject = x509.Name([x509.NameAttribute(oid, value) for oid, value in parts.items()])
        extension = x509.SubjectAlternativeName([alternative])
        signed = _builder(subject, self._name, key).add_extension(extension, critical=False)
        certificate, key_file = self._directory / f"{name}-cert.pem", self._directory / f"{name}-key.pem"
        certificate.write_bytes(_pem(signed.sign(self._key, hashes.SHA256())))
        key_file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return certificate, key_file


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _DAY)
        .not_valid_after(now + _DAY)
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
