"""TLS towards clients, as the command line names it. Light to import: every command that starts a listener reads it."""

from __future__ import annotations

import argparse
import ssl
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ListenerTls:
    """PEM files. `client_ca`: whose client certificates are accepted; None asks for none."""

    certificate: str
    key: str
    client_ca: str | None = None

    @classmethod
    def of(cls, args: argparse.Namespace) -> ListenerTls | None:
        """What the options say; None for plain HTTP. Raises ValueError where they contradict each other."""
        certificate, key, client_ca = args.tls_cert, args.tls_key, args.client_ca
        if certificate is not None and key is not None:
            return cls(certificate, key, client_ca)
        if certificate is not None or key is not None:
            raise ValueError("--tls-cert and --tls-key: write both, or neither")
        if client_ca is not None:
            raise ValueError(f"--client-ca {client_ca}: clients show certificates over TLS; add --tls-cert, --tls-key")
        return None

    def check_files(self) -> None:
        """Raises ValueError where a file is missing, or they do not belong together: Envoy would not start."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(self.certificate, self.key, password="")
        except (OSError, ValueError) as error:
            options = f"--tls-cert {self.certificate} --tls-key {self.key}"
            raise ValueError(f"{options}: {_reason(error)}; write PEM files that belong together") from None
        if self.client_ca is None:
            return
        try:
            context.load_verify_locations(self.client_ca)
        except OSError as error:
            raise ValueError(
                f"--client-ca {self.client_ca}: {_reason(error)}; write a PEM file of authorities"
            ) from None


def add_tls_arguments(parser: argparse.ArgumentParser) -> None:
    """The options."""
    parser.add_argument("--tls-cert", metavar="FILE", help="serve clients over TLS: the certificate chain (PEM)")
    parser.add_argument("--tls-key", metavar="FILE", help="its private key (PEM)")
    parser.add_argument("--client-ca", metavar="FILE", help="accept client certificates of these authorities (PEM)")


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
