"""From a URL to a `Channel`: one Redis, one behind Sentinels, or a Cluster.

| URL | what it is |
|---|---|
| `redis://host:port/db`, `rediss://…`, `unix:///path` | one server |
| `redis+sentinel://host:port,host:port/name` | the primary called `name`, as the Sentinels know it |
| `redis+cluster://host:port,host:port` | a Cluster |

A user and password before the `@` are those of the data servers; `rediss+…` speaks TLS. All keys of a realm lie in one
slot of a Cluster, so a realm's channel needs one node: the owner of that slot, asked for at each connection. A slot
that has moved answers so, which breaks the connection, and the next one goes where the slot is. So a Cluster has what
one server has: calls that arrive together leave together, and no retries but ours.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, cast
from urllib.parse import SplitResult, unquote, urlsplit

import redis.asyncio as redis_asyncio
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from ext_proc.ledger import keys
from ext_proc.ledger.channel import Channel, SharedConnection

_SENTINEL_PORT = 26_379
_REDIS_PORT = 6_379

Connect = Callable[[], Awaitable[AbstractConnection]]


def open_channel(url: str, realm: str, connect_timeout_ms: int) -> Channel:
    """The channel to whatever the URL names; it connects when first used. Raises ValueError for another form."""
    parts = urlsplit(url)
    options: dict[str, Any] = {
        "protocol": 2,
        "socket_connect_timeout": connect_timeout_ms / 1000,
        "socket_timeout": None,  # deadlines are ours; the library's costs a task per send, in which 3.11 loses a cancel
        "retry": Retry(NoBackoff(), 0),  # retries are ours: a library's may run a script twice unasked
    }
    match parts.scheme.removeprefix("redis").removeprefix("s"):
        case "+sentinel":
            return SharedConnection(_sentinel(parts, options))
        case "+cluster":
            return SharedConnection(_cluster(parts, options, realm))
        case _:
            pool = redis_asyncio.ConnectionPool.from_url(url, **options)

            async def connect() -> AbstractConnection:
                made = pool.make_connection()  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
                return cast("AbstractConnection", made)

            return SharedConnection(connect)


def _hosts(parts: SplitResult, default_port: int) -> list[tuple[str, int]]:
    places = parts.netloc.rpartition("@")[2].split(",")
    if not all(places):
        raise ValueError(f"a host is missing in {parts.scheme}://…")
    return [(host, int(port or default_port)) for host, _, port in (place.partition(":") for place in places)]


def _credentials(parts: SplitResult) -> dict[str, Any]:
    if not parts.username and not parts.password:
        return {}
    return {"username": parts.username or None, "password": unquote(parts.password or "")}


def _sentinel(parts: SplitResult, options: dict[str, Any]) -> Connect:
    name = parts.path.strip("/")
    if not name:
        raise ValueError("a Sentinel URL ends with the name of the primary: redis+sentinel://host:port/name")

    async def primary(sentinel: AbstractConnection) -> tuple[str, int]:
        place = await _ask(sentinel, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", name)
        if place is None:
            raise RedisConnectionError(f"the Sentinel knows no primary called {name}")
        host, port = cast("list[bytes]", place)
        return host.decode(), int(port)

    data = {**options, **_credentials(parts)}
    return _by_way_of(_hosts(parts, _SENTINEL_PORT), primary, parts, asking=options, then=data)


def _cluster(parts: SplitResult, options: dict[str, Any], realm: str) -> Connect:
    slot = key_slot(keys.prefix(realm).encode())

    async def owner(node: AbstractConnection) -> tuple[str, int]:
        for first, last, primary, *_ in cast("list[list[Any]]", await _ask(node, "CLUSTER", "SLOTS")):
            if first <= slot <= last:
                return (primary[0] or b"").decode(), int(primary[1])
        raise RedisConnectionError(f"no node serves slot {slot}")

    data = {**options, **_credentials(parts)}
    return _by_way_of(_hosts(parts, _REDIS_PORT), owner, parts, asking=data, then=data)


def _by_way_of(
    seeds: list[tuple[str, int]],
    find: Callable[[AbstractConnection], Awaitable[tuple[str, int]]],
    parts: SplitResult,
    *,
    asking: dict[str, Any],
    then: dict[str, Any],
) -> Connect:
    """Ask one seed after the other where to go; an empty host in the answer is the seed's own.

    Each connection begins with another seed: one that never answers, until the caller gives up, holds up one attempt.
    """
    waiting = deque(seeds)
    kind = redis_asyncio.SSLConnection if parts.scheme.startswith("rediss") else redis_asyncio.Connection

    async def connect() -> AbstractConnection:
        failure: Exception = RedisConnectionError("nobody to ask")
        for _ in seeds:
            seed_host, seed_port = waiting[0]
            waiting.rotate(-1)
            seed = kind(host=seed_host, port=seed_port, **asking)
            try:
                host, port = await find(seed)
            except (RedisError, OSError) as error:
                failure = error
                continue
            finally:
                await seed.disconnect(nowait=True)
            return kind(host=host or seed_host, port=port, **then)
        raise failure

    return connect


async def _ask(connection: AbstractConnection, *words: str) -> object:
    await connection.connect()  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
    await connection.send_command(*words)
    return cast("object", await connection.read_response())
