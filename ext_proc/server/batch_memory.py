"""What is remembered of files and batches between the calls about them: in Redis, so that any worker knows it.

| key | type | what it holds |
|---|---|---|
| `tg:{realm}:batch:<digest>` | string | the ticket of a file, a batch, or the file of its results |
"""

from __future__ import annotations

import asyncio
import logging
from hashlib import blake2b
from typing import Final

from ext_proc.batches.ticket import REMEMBERED_MS
from ext_proc.exchange.effects import Recall, Remember
from ext_proc.exchange.events import Recalled
from ext_proc.ledger import keys
from ext_proc.ledger.channel import RunCommand
from ext_proc.ledger.errors import StoreError

_LOG = logging.getLogger(__name__)
_DIGEST_BYTES: Final = 16
_TRIES: Final = 3
_PAUSE_SECONDS: Final = 0.1


class BatchMemory:
    """Recalls and remembers. Neither raises on store trouble."""

    def __init__(self, run: RunCommand) -> None:
        self._run = run

    async def recall(self, asked: Recall) -> Recalled:
        """What is remembered under a key."""
        try:
            found = await self._run("GET", _key(asked.key))
        except StoreError:
            return Recalled(None, failed=True)
        return Recalled(found.decode() if isinstance(found, bytes) else None)

    async def remember(self, remembered: Remember) -> None:
        """Remember, with a few tries: the answer that is waiting for it was paid for. What stays unknown is charged by
        the lease of its hold.
        """
        for number in range(_TRIES):
            try:
                await self._run("SET", _key(remembered.key), remembered.text, "PX", str(REMEMBERED_MS))
            except StoreError as error:
                _LOG.warning("a batch could not be remembered (try %d): %s", number + 1, error)
                await asyncio.sleep(_PAUSE_SECONDS)
            else:
                return


def _key(named: tuple[str, str, str]) -> str:
    """Digests alone: clients and providers choose these names."""
    digest = blake2b("\x1f".join(named).encode("utf-8", "surrogatepass"), digest_size=_DIGEST_BYTES).hexdigest()
    return f"{keys.prefix(keys.DEFAULT_REALM)}batch:{digest}"
