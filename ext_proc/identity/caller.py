"""Who a request is charged to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Caller:
    """User, team, virtual account and tenant, plus tags after trusted tags have overridden client-sent ones.

    `verified` is False where identity is only what the client said (the tag `user`).
    """

    user: str | None = None
    team: str | None = None
    virtual_account: str | None = None
    tenant: str | None = None
    plan: str | None = None  # from the tenant record only, never from the client
    tags: Mapping[str, str] = field(default_factory=dict)
    verified: bool = False
