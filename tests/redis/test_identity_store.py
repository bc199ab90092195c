"""Records in Redis: one writer wins, every reader learns what changed, and a silent Redis changes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus

import pytest

from ext_proc.identity.administration import Administration
from ext_proc.identity.directory import Directory
from ext_proc.identity.errors import IdentityStoreError, RecordConflictError, RecordError
from ext_proc.identity.identities import Identities, Wrong
from ext_proc.identity.keys import id_of
from ext_proc.identity.records import KeyRecord
from ext_proc.identity.store import PREFIX, IdentityStore
from ext_proc.ledger.errors import StoreUnreachableError
from ext_proc.ledger.redis_ledger import RedisLedger
from ext_proc.refusal import Refusal, RefusalType
from tests.identity_kit import SERVER_SECRET, policy

pytestmark = pytest.mark.redis

SECOND_US = 1_000_000


class World:
    """One Redis, its administration at a time the test sets, and a worker's directory."""

    def __init__(self, ledger: RedisLedger) -> None:
        self.now_us = 1_000 * SECOND_US
        self.ledger = ledger
        self.store = IdentityStore(self._command, SERVER_SECRET)
        self.administration = Administration(self.store, SERVER_SECRET, lambda: self.now_us)
        self.directory = Directory(self.store)
        self.silent = False
        self.commands: list[object] = []

    async def _command(self, *words: bytes | str | int) -> object:
        if self.silent:
            raise StoreUnreachableError("silent")
        self.commands.append(words[0])
        return await self.ledger.read(*words)

    def verify(self, key: str) -> KeyRecord | Wrong:
        """What a worker says of a key, with what it knows."""
        return Identities.of(policy(""), self.directory.records, SERVER_SECRET).verify(key, self.now_us)


NO_KEY = Refusal(RefusalType.UNAUTHENTICATED, HTTPStatus.UNAUTHORIZED, "", "", {"reason": "no_key"})


@asynccontextmanager
async def world_of(url: str) -> AsyncIterator[World]:
    ledger = RedisLedger.connect(url)
    await ledger.start()
    try:
        yield World(ledger)
    finally:
        await ledger.close()


def run(url: str, test: Callable[[World], object]) -> None:
    """Run a test's coroutine in a world of its own."""

    async def within() -> None:
        async with world_of(url) as world:
            await test(world)  # type: ignore[misc]  # every test here is a coroutine function

    asyncio.run(within())


def test_a_key_lives_through_rotation_and_revocation(redis_url: str) -> None:
    """Each change is one the directory learns; the old secret ends with its overlap, everything with the revocation."""

    async def test(world: World) -> None:
        made = await world.administration.create_key({"id": "ci", "team": "search", "tags": {"a": "b"}}, "ada")
        assert id_of(made.text) == "ci"
        assert await world.directory.refresh()
        assert world.verify(made.text) == made.record

        rotated = await world.administration.rotate_key("ci", 60, "ada")
        assert await world.directory.refresh()
        assert world.verify(rotated.text) == world.verify(made.text) == rotated.record
        world.now_us += 60 * SECOND_US
        assert world.verify(made.text) is Wrong.UNKNOWN
        assert world.verify(rotated.text) == rotated.record

        await world.administration.revoke_key("ci", "ada")
        await world.administration.revoke_key("ci", "ada")
        assert await world.directory.refresh()
        assert world.verify(rotated.text) is Wrong.REVOKED
        with pytest.raises(RecordError, match="revoked"):
            await world.administration.rotate_key("ci", 60, "ada")
        events = [entry["event"] for entry in await world.administration.audit(10)]
        assert events == ["key_revoked", "key_rotated", "key_created"]

    run(redis_url, test)


def test_only_the_hash_is_kept(redis_url: str) -> None:
    """No key of Redis holds the secret, or any part of it as long as eight characters."""

    async def test(world: World) -> None:
        made = await world.administration.create_key({"user": "ada", "environment": "staging"}, "ada")
        assert made.record.id.startswith("staging-")
        kept = repr(await world.ledger.read("HGETALL", f"{PREFIX}records"))
        audit = repr(await world.ledger.read("XRANGE", f"{PREFIX}audit", "-", "+"))
        secret = made.text.rpartition("_")[2]
        for start in range(len(secret) - 8):
            assert secret[start : start + 8] not in kept + audit
        assert "hmac-sha256" in kept
        assert "hmac" not in audit
        assert secret not in repr(made.record)

    run(redis_url, test)


def test_two_who_create_one_id_make_one_key(redis_url: str) -> None:
    """The second is told that it exists; a rotation of what has just been changed is told so too."""

    async def test(world: World) -> None:
        outcomes = await asyncio.gather(
            *(world.administration.create_key({"id": "ci", "user": "ada"}, "x") for _ in range(5)),
            return_exceptions=True,
        )
        assert sum(isinstance(outcome, RecordConflictError) for outcome in outcomes) == 4
        await world.administration.key("ci")
        with pytest.raises(RecordConflictError):
            await world.administration.rotate_key("nobody", 0, "x")
        with pytest.raises(RecordConflictError):
            await world.store.write("key:ci", "{}", {}, old="something else")

    run(redis_url, test)


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        ({"id": "a b", "user": "u"}, "id must be"),
        ({"id": "k"}, "belongs to nobody"),
        ({"user": "u", "tag": {}}, "did you mean 'tags'"),
        ({"user": "u", "tags": {"a": 1}}, "must be a text"),
        ({"user": "u", "tags": {"a": "x" * 129}}, "more than 128"),
        ({"user": "u", "expires": "soon"}, "must be a time"),
        ({"user": "u", "allowed_paths": ["v1"]}, "slash"),
        ({"user": "u", "speaks_for_tenants": "yes"}, "true or false"),
        ({"user": ["u"]}, "must be a text"),
        ([], "JSON object"),
    ],
)
def test_a_key_that_cannot_be_meant_is_not_made(redis_url: str, document: object, problem: str) -> None:
    """The error says what would be right, and Redis holds nothing."""

    async def test(world: World) -> None:
        with pytest.raises(RecordError, match=problem):
            await world.administration.create_key(document, "ada")
        assert await world.administration.keys() == ()

    run(redis_url, test)


def test_a_directory_asks_for_what_changed_alone(redis_url: str) -> None:
    """Nothing changed: one small read. One of many changed: that one is sent."""

    async def test(world: World) -> None:
        for number in range(20):
            await world.administration.put_tenant({"id": f"t{number}", "plan": "free"}, "x")
        assert await world.directory.refresh()
        known = await world.store.version()
        world.commands.clear()
        assert not await world.directory.refresh()
        assert world.commands == ["HMGET"]
        await world.administration.put_tenant({"id": "t3", "plan": "pro"}, "x")
        await world.administration.remove_tenant("t4", "x")
        changes = await world.store.changes(known)
        assert set(changes.records) == {"tenant:t3", "tenant:t4"}
        assert not changes.whole
        assert await world.directory.refresh()
        tenants = world.directory.records.tenants
        assert (len(tenants), tenants["t3"].plan, "t4" in tenants) == (19, "pro", False)
        assert {tenant.id for tenant in await world.administration.tenants()} == set(tenants)

    run(redis_url, test)


def test_a_silent_redis_changes_nothing(redis_url: str) -> None:
    """The last known keys stay good; operators are told; what was refused meanwhile is audited afterwards."""

    async def test(world: World) -> None:
        made = await world.administration.create_key({"user": "ada"}, "x")
        await world.directory.refresh()
        world.silent = True
        world.directory.note_refusal(NO_KEY)
        assert not await world.directory.refresh()
        await world.directory.append_refusals("w0")
        assert world.verify(made.text) == made.record
        with pytest.raises(IdentityStoreError):
            await world.administration.create_key({"user": "bob"}, "x")
        world.silent = False
        world.directory.note_refusal(NO_KEY)
        await world.directory.append_refusals("w0")
        (newest, *_) = await world.administration.audit(1)
        assert (newest["event"], newest["reason"], newest["count"]) == ("authentication_refused", "no_key", 2)

    run(redis_url, test)


def test_a_redis_that_lost_its_data_is_believed_but_opens_nothing(redis_url: str) -> None:
    """After a flush the keys are gone, as Redis says; callers without one are still refused, new keys are learned."""

    async def test(world: World) -> None:
        made = await world.administration.create_key({"user": "ada"}, "x")
        await world.directory.refresh()
        await world.ledger.read("FLUSHALL")
        assert await world.directory.refresh()
        assert world.verify(made.text) is Wrong.UNKNOWN
        assert Identities.of(policy(""), world.directory.records).anonymous.value == "refuse"
        again = await world.administration.create_key({"user": "bob"}, "x")
        assert await world.directory.refresh()
        assert world.verify(again.text) == again.record

    run(redis_url, test)


def test_another_server_secret_is_noticed(redis_url: str, caplog: pytest.LogCaptureFixture) -> None:
    """A replica with another secret says so in its log, and makes no keys that the others could not check."""

    async def test(world: World) -> None:
        await world.administration.create_key({"user": "ada"}, "x")
        other = IdentityStore(world.ledger.read, b"some other secret")
        directory = Directory(other)
        assert await directory.refresh()
        assert "identity_secret_differs" in caplog.text
        with pytest.raises(IdentityStoreError, match="TOLLGATE_KEY_SECRET"):
            await Administration(other, b"some other secret").create_key({"user": "bob"}, "x")

    run(redis_url, test)


def test_an_unreadable_record_hurts_nobody_else(redis_url: str, caplog: pytest.LogCaptureFixture) -> None:
    """Somebody wrote nonsense into Redis: it is logged by name, the other keys stay good."""

    async def test(world: World) -> None:
        made = await world.administration.create_key({"user": "ada"}, "x")
        await world.store.put("key:odd", '{"id": "odd", "hashes": [{"hash": "zz"}]}', {"event": "by hand"})
        assert await world.directory.refresh()
        assert world.verify(made.text) == made.record
        assert "identity_unreadable" in caplog.text

    run(redis_url, test)
