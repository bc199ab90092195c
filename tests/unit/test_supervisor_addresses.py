"""HOST:PORT, and a port that is kept for one child and for nobody else."""

from __future__ import annotations

import socket

import pytest

from ext_proc.supervisor.addresses import Address, bind, bound_address, reserve
from ext_proc.supervisor.errors import AddressInUseError, OptionError

LOOPBACK = Address("127.0.0.1", 0)


@pytest.mark.parametrize(
    ("text", "host", "port", "shown", "url"),
    [
        ("127.0.0.1:10000", "127.0.0.1", 10000, "127.0.0.1:10000", "http://127.0.0.1:10000"),
        ("[::1]:0", "::1", 0, "[::1]:0", "http://[::1]:0"),
        (":80", "0.0.0.0", 80, "0.0.0.0:80", "http://127.0.0.1:80"),
        ("[::]:80", "::", 80, "[::]:80", "http://[::1]:80"),
        ("localhost:65535", "localhost", 65535, "localhost:65535", "http://localhost:65535"),
    ],
)
def test_addresses_that_can_be_meant(text: str, host: str, port: int, shown: str, url: str) -> None:
    """An address is read, shown and reached as its text says."""
    address = Address.parse(text, "--listen")
    assert (address.host, address.port, str(address), address.url) == (host, port, shown, url)


@pytest.mark.parametrize("text", ["", "10000", "127.0.0.1", "127.0.0.1:", "h:65536", "h:-1", "h:1x", "::1:80", "h:٣"])
def test_addresses_that_cannot_be_meant(text: str) -> None:
    """A text that is no address is refused with the option's name, the text and an example."""
    with pytest.raises(OptionError, match=r"^--listen .*as in"):
        Address.parse(text, "--listen")


def test_a_reserved_port_takes_no_connection() -> None:
    """Before Envoy listens and after it stopped, clients are refused at once instead of waiting for nobody."""
    address, kept = reserve(LOOPBACK, "--listen")
    with kept, pytest.raises(ConnectionRefusedError):
        socket.create_connection(address.reachable)


def test_only_who_shares_by_intent_binds_a_reserved_port() -> None:
    """Our own child binds the port with SO_REUSEPORT; a second stack, which would split our clients with us, cannot."""
    address, kept = reserve(LOOPBACK, "--listen")
    with kept:
        with socket.socket() as child:
            child.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            child.bind(address.reachable)
            child.listen()
            socket.create_connection(address.reachable).close()
            with pytest.raises(AddressInUseError, match=rf"--listen {address}: .* in use"):
                reserve(address, "--listen")
        with pytest.raises(AddressInUseError):
            reserve(address, "--listen")


def test_a_port_is_free_again_right_after_its_connections() -> None:
    """A stack starts on the port of its predecessor although connections of that one still linger in the kernel."""
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        address = bound_address(listening)
        with socket.create_connection(address.reachable) as client:
            accepted, _ = listening.accept()
            accepted.close()  # the side that closes first keeps the connection in TIME_WAIT
            assert client.recv(1) == b""
    reserve(address, "--listen")[1].close()


def test_a_name_is_kept_as_the_number_it_stands_for() -> None:
    """Envoy takes no host names to listen on, so `localhost` is resolved before it is told."""
    address, kept = reserve(Address("localhost", 0), "--listen")
    with kept:
        assert address.host in ("127.0.0.1", "::1")


def test_a_host_of_another_machine_is_refused_with_a_cure() -> None:
    """An address that cannot be bound is named with its option, whatever the reason."""
    with pytest.raises(AddressInUseError, match=r"--admin 192\.0\.2\.1:0: Cannot assign.*choose another"):
        bind(Address("192.0.2.1", 0), "--admin")
    with pytest.raises(OptionError, match=r"no\.such\.host\.invalid"):
        bind(Address("no.such.host.invalid", 0), "--admin")
