"""What travels with a request that several targets may serve, so that any worker can make the next attempt.

Like the ticket it is figures and names, never credentials. It rides in a namespace of its own, which only the filter
of attempts gets: the ticket stays small.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final

from ext_proc.exchange.compact import compact
from ext_proc.identity.caller import Caller, Source

CHAIN_NAMESPACE: Final = "tollgate.chain"
"""The dynamic metadata namespace of the chain: written by admit, read by try."""

TRIED_NAMESPACE: Final = "tollgate.tried"
"""Where Envoy itself notes the status of the latest answer of an attempt; try empties it as it sends the next one, and
says after which answers another is made."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What Envoy's router is told of one request. None: no limit of that kind. `retries` 0: one attempt."""

    retries: int = 0
    first_byte_ms: int | None = None  # per attempt, until the response headers
    request_ms: int | None = None  # for all attempts together, to the end of the answer


@dataclass(frozen=True, slots=True)
class Attempts:
    """The attempts a request may make: Envoy's cluster that leads the n-th to its account, the target of each."""

    cluster: str
    targets: tuple[str, ...]
    limits: Limits


@dataclass(frozen=True, slots=True)
class Chain:
    """The attempts a request may make, and who makes it."""

    rule: str
    targets: tuple[str, ...]  # of each attempt, in order
    caller: Caller
    requested_model: str
    path: str  # the endpoint's, below the account's base path
    request_id: str
    removed: tuple[str, ...]  # headers that must reach no provider
    output_limit: int | None  # per choice, to be written into the first attempt's body
    first_byte_ms: int | None
    context: str  # the journal's, as of the first attempt
    series: tuple[tuple[str, str], ...]

    def encode(self) -> str:
        """The compact text form."""
        caller = self.caller
        fields = [
            self.rule,
            self.targets,
            [caller.user, caller.team, caller.virtual_account, caller.tenant, caller.plan, dict(caller.tags)],
            [caller.verified, caller.key_id, caller.source.value],
            self.requested_model,
            self.path,
            self.request_id,
            self.removed,
            self.output_limit,
            self.first_byte_ms,
            self.context,
            self.series,
        ]
        return compact(fields)

    @classmethod
    def decode(cls, text: str) -> Chain:
        """Read `encode`'s form. Raises ValueError where it is not one."""
        try:
            rule, targets, who, known_by, requested, path, request_id, *rest = json.loads(text)
            removed, output_limit, first_byte_ms, context, series = rest
            user, team, virtual_account, tenant, plan, tags = who
            verified, key_id, source = known_by
        except (TypeError, ValueError) as error:
            raise ValueError(f"not a chain: {text[:80]!r}") from error
        caller = Caller(
            user=user,
            team=team,
            virtual_account=virtual_account,
            tenant=tenant,
            plan=plan,
            tags=tags,
            verified=verified,
            key_id=key_id,
            source=Source(source),
        )
        return cls(
            rule=rule,
            targets=tuple(targets),
            caller=caller,
            requested_model=requested,
            path=path,
            request_id=request_id,
            removed=tuple(removed),
            output_limit=output_limit,
            first_byte_ms=first_byte_ms,
            context=context,
            series=tuple((name, value) for name, value in series),
        )
