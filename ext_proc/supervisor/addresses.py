"""Addresses: reading HOST:PORT, and keeping a port for Envoy from before it starts until after it stopped."""

from __future__ import annotations

import socket
from dataclasses import dataclass

from ext_proc.supervisor.errors import AddressInUseError, OptionError

_PORT_MAX = 65535


@dataclass(frozen=True, slots=True)
class Address:
    """A TCP address; port 0 means: any free one."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str, option: str) -> Address:
        """Read `127.0.0.1:10000`, `[::1]:10000` or `:10000` (every interface). Raises OptionError."""
        host, colon, port = text.rpartition(":")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            raise OptionError(f"{option} {text}: an IPv6 address needs brackets, as in [::1]:10000")
        if not colon or not (port.isascii() and port.isdigit()) or int(port) > _PORT_MAX:
            raise OptionError(f"{option} {text}: expected HOST:PORT with a port from 0 to 65535, as in 127.0.0.1:10000")
        return cls(host or "0.0.0.0", int(port))  # noqa: S104 - only where the operator left the host out

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def reachable(self) -> tuple[str, int]:
        """Host and port to connect to from this machine."""
        unspecified = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared, not bound
        return unspecified.get(self.host, self.host), self.port

    @property
    def url(self) -> str:
        """How a client on this machine reaches it."""
        return f"http://{Address(*self.reachable)}"

    @property
    def secure_url(self) -> str:
        """The same over TLS."""
        return f"https://{Address(*self.reachable)}"


def bind(address: Address, option: str) -> socket.socket:
    """A socket bound to the address and to nobody else's. Raises AddressInUseError or OptionError with the cure."""
    try:
        family, kind, protocol, _, target = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except socket.gaierror as error:
        raise OptionError(f"{option} {address}: {address.host!r} is no address of this machine ({error})") from None
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of a predecessor may linger
        bound.bind(target)
    except OSError as error:
        bound.close()
        raise AddressInUseError(
            f"{option} {address}: {error.strerror}. Stop what listens there, or choose another with {option} HOST:PORT "
            f"(port 0: any free one)"
        ) from None
    return bound


def bound_address(bound: socket.socket) -> Address:
    """The address that was really bound: the host as a number, which Envoy needs, and the port that was given."""
    host, port = bound.getsockname()[:2]
    return Address(host, port)


def reserve(address: Address, option: str) -> tuple[Address, socket.socket]:
    """Keep a TCP port for a child that binds it with SO_REUSEPORT, as Envoy does; the address with its real port.

    SO_REUSEPORT would let two stacks of one user share a port by accident and split the clients between them. So the
    port is bound exclusively first, which fails where anybody has it, and opened to our own child only then. The
    socket never listens: it takes no connection, and without Envoy the port refuses. Close it to give the port back.
    """
    bound = bind(address, option)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)  # so that others cannot bind beside it either
    return bound_address(bound), bound
