"""What travels with a call of a batch API inside Envoy, and is remembered between calls: figures, never content."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final

from ext_proc.batches.calls import Api, Step
from ext_proc.batches.summary import Summary
from ext_proc.exchange.compact import compact
from ext_proc.exchange.ticket import Ticket
from ext_proc.identity.caller import Caller

FIELD: Final = "batch"
"""Where it stands in the ticket's metadata namespace."""

_HOUR_MS: Final = 3_600_000
LEASE_MS: Final = 48 * _HOUR_MS
"""How long the hold of a batch waits for its results: providers end a batch within 24 hours, and its caller has as long
again to fetch them. Then it is charged in full; results that are fetched later correct that, for as long again."""

REMEMBERED_MS: Final = 31 * 24 * _HOUR_MS
"""How long files and batches are known: providers keep their results for about a month."""

Payer = tuple[str | None, ...]


def payer_of(caller: Caller) -> Payer:
    """Whose batches these are: nobody else's calls are taken for calls about them."""
    return caller.tenant, caller.team, caller.virtual_account, caller.user


@dataclass(frozen=True, slots=True)
class BatchTicket:
    """One call, or what is known of one file or batch.

    `summary` is of a file of requests (UPLOAD, and what is remembered of it). `ticket` is of a batch's one hold: all
    its later calls carry it. `requests` are those of the batch.
    """

    api: Api
    step: Step
    account: str
    payer: Payer
    summary: Summary | None = None
    ticket: Ticket | None = None
    batch_id: str = ""
    requests: int = 0

    def encode(self) -> str:
        """The compact text form."""
        summary = None if self.summary is None else self.summary.as_json()
        ticket = None if self.ticket is None else self.ticket.encode()
        return compact([self.api, self.step, self.account, self.payer, summary, ticket, self.batch_id, self.requests])

    @classmethod
    def decode(cls, text: str) -> BatchTicket:
        """Read `encode`'s form. Raises ValueError where it is not one."""
        try:
            api, step, account, payer, summary, ticket, batch_id, requests = json.loads(text)
            return cls(
                api=Api(api),
                step=Step(step),
                account=account,
                payer=tuple(payer),
                summary=None if summary is None else Summary.from_json(summary),
                ticket=None if ticket is None else Ticket.decode(ticket),
                batch_id=batch_id,
                requests=requests,
            )
        except (TypeError, AttributeError) as error:
            raise ValueError(f"not a batch ticket: {text[:80]!r}") from error
