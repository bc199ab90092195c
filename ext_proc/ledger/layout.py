"""One layout at a time: every worker on a Redis says how it splits the ledger, and none may say otherwise meanwhile.

Two layouts at once would keep one account in two realms, each with a cap of its own. A worker therefore claims its
layout before it serves, and again and again while it does; a claim that nobody renews lapses, so that a layout can be
changed with everything stopped.
"""

from __future__ import annotations

from typing import Final, cast

from ext_proc.ledger import keys
from ext_proc.ledger.channel import RunCommand
from ext_proc.ledger.errors import LayoutError
from ext_proc.ledger.realms import Realms

CLAIM_SECONDS: Final = 30
"""How long a claim stands without being renewed."""

RENEW_SECONDS: Final = 10.0

_KEY: Final = f"{keys.prefix(keys.DEFAULT_REALM)}layout"


async def claim(run: RunCommand, realms: Realms) -> None:
    """Claim the layout of this process, or renew the claim.

    Raises LayoutError where another one stands, StoreError where Redis does not answer: then nothing is known.
    """
    ours = str(realms.tenant_realms)
    await run("SET", _KEY, ours, "NX", "PX", CLAIM_SECONDS * 1_000)
    theirs = cast("bytes | None", await run("GET", _KEY))
    if theirs is not None and theirs.decode() != ours:
        raise LayoutError(_words(int(theirs)), _words(realms.tenant_realms), CLAIM_SECONDS)
    await run("PEXPIRE", _KEY, CLAIM_SECONDS * 1_000)


def _words(tenant_realms: int) -> str:
    return f"{{realm_by: tenant, realms: {tenant_realms}}}" if tenant_realms else "one realm (no `ledger` setting)"
