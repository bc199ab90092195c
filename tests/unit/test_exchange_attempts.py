"""Attempts of a chain: how the one before ended."""

from __future__ import annotations

import pytest

from ext_proc.exchange.attempts import Attempt
from ext_proc.exchange.chain import Chain
from ext_proc.exchange.ticket import Ticket
from ext_proc.identity.caller import Caller
from ext_proc.ledger import ids
from ext_proc.pricing.price import Price, Tier
from ext_proc.pricing.usage import Rates

BEGAN_US = 1_779_000_000_000_000
FIRST_BYTE_MS = 2_500
CHAIN = Chain(
    rule="chat",
    targets=("main/m", "b/m"),
    caller=Caller(),
    requested_model="chat",
    path="/v1/messages",
    request_id="req_1",
    removed=(),
    output_limit=None,
    first_byte_ms=FIRST_BYTE_MS,
    context="{}",
    series=(),
)
TICKET = Ticket(
    hold_id=ids.mint(BEGAN_US, bytes(8)),
    dialect="anthropic-messages",
    operation="chat",
    requested_model="chat",
    target="main/m",
    price=Price((Tier(0, Rates()),), "v"),
    input_tokens=600,
    output_limit=100,
    verdict="pass",
    stream=False,
    hide_usage=False,
)


@pytest.mark.parametrize(
    ("status", "waited_ms", "timed_out"),
    [
        (0, FIRST_BYTE_MS, True),
        (0, FIRST_BYTE_MS - 200, True),  # as told by a worker whose idea of the time lags behind
        (0, FIRST_BYTE_MS // 2, False),
        (503, FIRST_BYTE_MS, False),
    ],
)
def test_an_unanswered_attempt_near_its_limit_has_timed_out(status: int, waited_ms: int, timed_out: bool) -> None:
    """Workers know the time only so well: a limit that struck must not pass for a reset, which charges nothing."""
    attempt = Attempt(2, CHAIN, TICKET, status, b"", BEGAN_US + waited_ms * 1_000)

    assert attempt.timed_out is timed_out
