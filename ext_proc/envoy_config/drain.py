"""Drain an Envoy before it is stopped: SIGTERM alone cuts every answer that is under way.

For a pod's preStop hook, run in Envoy's own container: it needs Envoy's admin socket and nothing but the standard
library.
"""

from __future__ import annotations

import socket
import time
from http.client import HTTPConnection

from ext_proc.envoy_config.errors import EnvoyConfigError

ACTIVE_REQUESTS = "http.tollgate.downstream_rq_active"
POLL_SECONDS = 0.2
LOG_FLUSH_SECONDS = 0.3  # three times the access log's flush interval: the last records are on their way


class _UnixConnection(HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("envoy", timeout=5.0)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def drain(admin: str, *, notice_seconds: float, limit_seconds: float) -> int:
    """Refuse new connections and let running requests finish; how many still ran when the limit was reached.

    `admin` is `unix:/path` or `host:port`. During `notice_seconds` new connections are still taken, while the load
    balancer learns that this Envoy goes away; clients with a kept connection are told with each answer.
    """
    deadline = time.monotonic() + limit_seconds
    _ask(admin, "POST", "/healthcheck/fail")
    time.sleep(min(notice_seconds, limit_seconds))
    _ask(admin, "POST", "/drain_listeners")
    while (active := _active_requests(admin)) > 0 and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    time.sleep(LOG_FLUSH_SECONDS)
    return active


def _active_requests(admin: str) -> int:
    stat = _ask(admin, "GET", f"/stats?filter=^{ACTIVE_REQUESTS}$")
    name, _, value = stat.partition(":")
    if name != ACTIVE_REQUESTS:
        raise EnvoyConfigError(f"the Envoy at {admin} has no {ACTIVE_REQUESTS}: it does not run Tollgate's listener")
    return int(value)


def _ask(admin: str, method: str, path: str) -> str:
    connection = _UnixConnection(admin.removeprefix("unix:")) if admin.startswith("unix:") else HTTPConnection(admin)
    try:
        connection.request(method, path)
        return connection.getresponse().read().decode()
    except OSError as error:
        raise EnvoyConfigError(f"no Envoy answers at {admin}: {error.strerror or error}") from error
    finally:
        connection.close()
