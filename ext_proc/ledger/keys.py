"""Every key name of the ledger: `tg:{realm}:<kind>:…`.

The braces make all keys of a realm one slot of a Redis Cluster, so that one script is atomic over all of them. Key
names hold digests and ids of ours only: nothing a client chose, so no brace of theirs can move a key.

| key | type | what it holds |
|---|---|---|
| `clock` | hash | epoch, seq, the last time seen, backward steps accepted |
| `layout` | string | how the workers that run now split the ledger, in the shared realm only |
| `leases` | sorted set | open holds by the end of their lease |
| `parts` | sorted set | the same of holds whose home is another realm |
| `hold:<id>` | string | an open or expired hold, packed; later its tombstone |
| `refused:<id>` | string | a refusal, remembered for a minute |
| `calendar:<digest>:<start>`, `lifetime:<digest>:0` | hash | one account of one window |
| `sliding:<digest>`, `slots:<digest>` | hash, sorted set | a rate window: totals, amounts by slot; slots in order |
| `open:<digest>` | hash | what is in flight |
| `accounts` | sorted set | calendar and lifetime accounts by the time they are forgotten |
| `journal` | stream | one entry for each hold resolved |
| `postings` | stream | one row for each resolved part of a hold whose home is another realm |
| `outbox` | stream | thresholds crossed, for whoever tells people |
| `top:<kind>:<account>` | sorted set | what each tag value spent on an account |
| `series:hour:<tag>:<start>`, `series:day:…` | hash | spend by value of a tag: `c<value>` cost, `t<value>` tokens |
| `latch:<digest>` | string | an account that stays shut until resumed |
"""

from __future__ import annotations

import re
from hashlib import blake2b

import orjson

from ext_proc.ledger.interface import AccountSpec, WindowKind

DEFAULT_REALM = "0"
IDENTITIES = "keys"
"""No realm of the ledger, but a slot like one: virtual keys, teams and tenants (`identity.store`)."""

_REALM = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_DIGEST_BYTES = 12


def prefix(realm: str) -> str:
    """What every key of a realm starts with."""
    if not _REALM.fullmatch(realm):
        raise ValueError(f"a realm is 1 to 64 letters, digits, '.', '_' or '-': {realm!r}")
    return f"tg:{{{realm}}}:"


def digest(account: AccountSpec) -> str:
    """What an account is, whatever its cap: document type, rule id as written, measure, window and bucket."""
    window = account.window
    identity = (
        account.document_type,
        account.rule_id,
        account.measure,
        window.kind,
        window.period,
        window.timezone if window.kind is WindowKind.CALENDAR else "",
        account.bucket,
    )
    return blake2b(orjson.dumps(identity), digest_size=_DIGEST_BYTES).hexdigest()


def series_name(tag: str) -> str:
    """A tag in a key name: as it is where it is plain, else its digest."""
    return tag if _REALM.fullmatch(tag) else blake2b(tag.encode(), digest_size=_DIGEST_BYTES).hexdigest()


def account_name(kind: WindowKind, account_digest: str, start_us: int) -> str:
    """The part of an account's key after its kind: the digest, and the start of the window where it has one."""
    if kind is WindowKind.CALENDAR or kind is WindowKind.LIFETIME:
        return f"{account_digest}:{start_us}"
    return account_digest
