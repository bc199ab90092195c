"""Who a request is charged to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Source(StrEnum):
    """What says who calls, the strongest first: the strongest one present decides alone."""

    KEY = "key"
    JWT = "jwt"
    CERTIFICATE = "certificate"
    NONE = "none"  # nobody but the client itself: the tag `user`


@dataclass(frozen=True, slots=True)
class Grant:
    """What one record lets its callers do; None: everything. A caller must be let by each of its grants."""

    owner: str  # for refusals: "key 'ci'", "team 'search'"
    models: frozenset[str] | None = None
    paths: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Caller:
    """User, team, virtual account and tenant, plus tags after trusted tags have overridden client-sent ones.

    `verified` is False where identity is only what the client said (the tag `user`). `overridden` names the tags the
    client sent that trusted ones contradict.
    """

    user: str | None = None
    team: str | None = None
    virtual_account: str | None = None
    tenant: str | None = None
    plan: str | None = None  # from the tenant record only, never from the client
    tags: Mapping[str, str] = field(default_factory=dict)
    verified: bool = False
    key_id: str | None = None
    source: Source = Source.NONE
    grants: tuple[Grant, ...] = ()
    overridden: tuple[str, ...] = ()
