"""From a URL to a `Channel`: one Redis, one behind Sentinels, or a Cluster.

| URL | what it is |
|---|---|
| `redis://host:port/db`, `rediss://…`, `unix:///path` | one server |
| `redis+sentinel://host:port,host:port/name` | the primary called `name`, as the Sentinels know it |
| `redis+cluster://host:port,host:port` | a Cluster; every key of a realm lies in one slot |

A user and password before the `@` are those of the data servers; `rediss+…` speaks TLS.
"""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

import redis.asyncio as redis_asyncio
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError, ResponseError

from ext_proc.ledger.channel import Channel, Reply, SharedConnection, Word
from ext_proc.ledger.errors import ScriptUnknownError, StoreError, StoreUnreachableError

_SENTINEL_PORT = 26_379
_REDIS_PORT = 6_379


def open_channel(url: str, connect_timeout_ms: int) -> Channel:
    """The channel to whatever the URL names; it connects when first used. Raises ValueError for another scheme."""
    parts = urlsplit(url)
    common: dict[str, Any] = {
        "protocol": 2,
        "socket_connect_timeout": connect_timeout_ms / 1000,
    }
    if parts.username or parts.password:
        common |= {"username": parts.username, "password": unquote(parts.password or "")}
    match parts.scheme.removeprefix("redis").removeprefix("s"):
        case "+sentinel":
            return _sentinel(parts, common)
        case "+cluster":
            return ClusterChannel(parts, common)
        case _:
            # Retries are ours: a library's may run a script twice unasked.
            pool = redis_asyncio.ConnectionPool.from_url(
                url, protocol=2, socket_connect_timeout=connect_timeout_ms / 1000, retry=Retry(NoBackoff(), 0)
            )
            return SharedConnection(pool.make_connection)


def _hosts(parts: SplitResult, default_port: int) -> list[tuple[str, int]]:
    places = parts.netloc.rpartition("@")[2].split(",")
    if not all(places):
        raise ValueError(f"a host is missing in {parts.scheme}://…")
    return [(host, int(port or default_port)) for host, _, port in (place.partition(":") for place in places)]


def _sentinel(parts: SplitResult, common: dict[str, Any]) -> Channel:
    name = parts.path.strip("/")
    if not name:
        raise ValueError("a Sentinel URL ends with the name of the primary: redis+sentinel://host:port/name")
    sentinel = Sentinel(  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
        _hosts(parts, _SENTINEL_PORT), socket_connect_timeout=common["socket_connect_timeout"], protocol=2
    )
    primary = sentinel.master_for(name, **common, ssl=parts.scheme.startswith("rediss"), retry=Retry(NoBackoff(), 0))
    return SharedConnection(primary.connection_pool.make_connection)


class ClusterChannel:
    """A `Channel` over redis-py's cluster client, which follows slots as they move.

    It has no pipeline for scripts, so calls that arrive together do not leave in one write here.
    """

    def __init__(self, parts: SplitResult, common: dict[str, Any]) -> None:
        self.sessions = 0  # nodes come and go without our noticing
        self._hosts = _hosts(parts, _REDIS_PORT)
        self._common = {**common, "ssl": parts.scheme.startswith("rediss")}
        self._client: redis_asyncio.RedisCluster | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def call(self, *words: Word) -> Reply:
        """Send one command to the node that owns its key."""
        loop = asyncio.get_running_loop()
        reply: Reply = loop.create_future()
        task = loop.create_task(self._execute(words, reply))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return reply

    def reset(self) -> None:
        """Fail what waits; the client makes its connections anew."""
        for task in self._tasks:
            task.cancel()
        self._client = None

    async def close(self) -> None:
        """Stop for good."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._client is not None:
            await self._client.aclose()

    async def _execute(self, words: tuple[Word, ...], reply: Reply) -> None:
        answer: object
        try:
            answer = await self._connected().execute_command(*words)
        except NoScriptError:
            answer = ScriptUnknownError("no such script")
        except ResponseError as error:
            answer = StoreError(str(error))
        except (RedisError, OSError, asyncio.CancelledError) as error:
            answer = StoreUnreachableError(f"the cluster did not answer: {error}")
        if reply.done():
            return
        if isinstance(answer, StoreError):
            reply.set_exception(answer)
        else:
            reply.set_result(answer)

    def _connected(self) -> redis_asyncio.RedisCluster:
        if self._client is None:
            nodes = [redis_asyncio.cluster.ClusterNode(host, port) for host, port in self._hosts]
            self._client = redis_asyncio.RedisCluster(startup_nodes=nodes, retry=Retry(NoBackoff(), 1), **self._common)
        return self._client
