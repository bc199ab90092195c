"""What an attempt is charged, by how it ended: the table of the design's section on settling, as two functions.

`by_reading` is what meter knows (the body), `by_record` what the access log record knows (flags, byte counts, times,
and the usage where Envoy's own parsers read it). What has to be estimated is estimated by what was learned of the
target, where enough of its answers have told.

| how it ended                                                   | charged at                         | basis     |
|----------------------------------------------------------------|------------------------------------|-----------|
| usage reported                                                 | usage × rates                      | reported  |
| cut after some output                                          | last cumulative usage, or estimate | estimated |
| client gone or our time limit, after sending, before an answer | input and output estimate          | estimated |
| 2xx without usage                                              | input estimate, output that passed | estimated |
| provider error without usage, reset before any output          | nothing but the request            | released  |
| never sent                                                     | nothing                            | released  |
"""

from __future__ import annotations

from dataclasses import replace

from ext_proc.dialects import registry
from ext_proc.dialects.interface import Dialect, Reading
from ext_proc.exchange.bounds import CHARGE_BYTES_PER_TOKEN_MILLI, TOKENS_PER_SECOND, tokens_of
from ext_proc.exchange.calibration import NOTHING, Learned
from ext_proc.exchange.compact import compact
from ext_proc.exchange.events import EndRecord, ResponseHead
from ext_proc.exchange.ticket import Ticket
from ext_proc.ledger.ids import minted_us
from ext_proc.ledger.interface import Basis, Charge, Resolution
from ext_proc.pricing.usage import NO_USAGE, NOT_TOKENS, UNITS, USAGE_FIELDS, Usage

EVENT_BYTES_PER_TOKEN_MILLI = 200_000
"""Bytes of an event stream per token where only the byte count is known, in thousandths: a chunk of the OpenAI dialect
carries about one token in 200 to 250 bytes."""

_ERROR = 400
_TOKENS = tuple(name for name in USAGE_FIELDS if name not in NOT_TOKENS)


def by_reading(
    ticket: Ticket,
    head: ResponseHead,
    reading: Reading,
    now_us: int,
    *,
    cut: bool,
    cut_by: tuple[str, ...] = (),
    learned: Learned = NOTHING,
) -> Resolution:
    """Resolve from the response body: all of it, or what passed before it was cut. `cut_by`: by these rules of ours."""
    ending: dict[str, object] = {
        "status": head.status,
        "ended": "cut" if cut else "complete",
        "ttft_ms": _elapsed_ms(ticket, head.now_us),
        "duration_ms": _elapsed_ms(ticket, now_us),
    }
    if cut_by:
        ticket, ending = (
            replace(ticket, verdict="cut", verdict_rule=cut_by[0]),
            ending | {"ended": "exhausted", "cut_by": cut_by},
        )
    ticket, ending = _served(ticket, reading, ending)
    usage = reading.usage
    if head.status >= _ERROR and not _is_billed(usage):
        return _release(ticket, requests=1, ending=ending)
    if usage is not None and reading.output_known:
        basis = Basis.ESTIMATED if cut and not reading.finished else Basis.REPORTED
        if basis is Basis.ESTIMATED:
            usage = replace(usage, output=max(usage.output, _passed(reading, learned)))
            return _settle(ticket, usage, basis, ending)
        return _settle_reported(ticket, usage, reading, ending)
    known = usage if usage is not None else Usage()
    if not known.input_tokens:
        known = replace(known, input_uncached=ticket.input_tokens)
    if registry.dialect(ticket.dialect).output_kind == "output":
        written = max(1, known.output, _passed(reading, learned))
    else:  # no text that passed would tell
        written = known.output if known.output_tokens else ticket.output_limit
    exact = usage is not None and reading.finished and not ticket.price.bills(_TOKENS)  # the request told the units
    basis = Basis.REPORTED if exact else Basis.ESTIMATED
    return _settle(ticket, replace(known, output=written), basis, ending)


def by_record(ticket: Ticket, record: EndRecord, learned: Learned = NOTHING) -> Resolution:
    """Resolve from the end record: Envoy's own parsers read the body, or meter did not or could not tell who cut it."""
    ending: dict[str, object] = {
        "status": record.status,
        "ended": _ended(record),
        "ttft_ms": None if record.first_byte_us is None else record.first_byte_us // 1_000,
        "duration_ms": record.duration_us // 1_000,
    }
    if not record.answered:
        if not record.sent_upstream:
            return _release(ticket, requests=0, ending=ending)
        if record.client_gone or record.timed_out:
            return _settle(ticket, _while_waiting(ticket, record, learned), Basis.ESTIMATED, ending)
        return _release(ticket, requests=1, ending=ending)
    reading = registry.dialect(ticket.dialect).native_reading(record.reported)
    ticket, ending = _served(ticket, reading, ending)
    usage = reading.usage
    if record.status >= _ERROR and not record.is_cut and not _is_billed(usage):
        return _release(ticket, requests=1, ending=ending)
    if usage is not None and reading.output_known:
        if record.is_cut:
            return _settle(ticket, usage, Basis.ESTIMATED, ending)
        return _settle_reported(ticket, usage, reading, ending)
    if record.upstream_body_bytes == 0:
        if record.upstream_failed:
            return _release(ticket, requests=1, ending=ending)
        return _settle(ticket, _while_waiting(ticket, record, learned), Basis.ESTIMATED, ending)
    per_token = EVENT_BYTES_PER_TOKEN_MILLI if ticket.stream else _charge_bytes_per_token_milli(learned)
    output = _within_limit(ticket, tokens_of(record.upstream_body_bytes, per_token))
    known = usage if usage is not None else Usage(input_uncached=ticket.input_tokens)
    return _settle(ticket, replace(known, output=max(known.output, output)), Basis.ESTIMATED, ending)


def _served(ticket: Ticket, reading: Reading, ending: dict[str, object]) -> tuple[Ticket, dict[str, object]]:
    """The ticket at the price of where and how it was served, and what the answer says of that."""
    named = {"reported_model": reading.served_model, "service_tier": reading.service_tier, "geo": reading.geo}
    price = ticket.price
    if reading.service_tier is not None:
        price = price.served_by(reading.service_tier)
    if reading.geo is not None:
        price = price.served_in(reading.geo)
    said = {name: value for name, value in named.items() if value is not None}
    return ticket if price is ticket.price else replace(ticket, price=price), ending | said


def _settle_reported(ticket: Ticket, usage: Usage, reading: Reading, ending: dict[str, object]) -> Resolution:
    basis = Basis.REPORTED
    if reading.other_models:  # the ticket has the price of one model: what theirs costs is an estimate
        basis, ending = Basis.ESTIMATED, ending | {"other_models": reading.other_models}
    return _settle(ticket, usage, basis, ending, parts=tuple(part.usage for part in reading.parts))


def _is_billed(usage: Usage | None) -> bool:
    return usage is not None and bool(usage.input_tokens or usage.output_tokens or usage.audio_ms)


def by_failure(
    ticket: Ticket, status: int, now_us: int, *, sent: bool, timed_out: bool = False, learned: Learned = NOTHING
) -> Resolution:
    """Resolve an attempt that another one follows. `status` is what it was answered with, 0 without an answer.

    Envoy drops the body of an answer that it retries, so a usage in it is not known. `timed_out`: its time was over
    before it answered, and what the provider has spent on it meanwhile is estimated.
    """
    elapsed_us = max(0, now_us - minted_us(ticket.hold_id) - ticket.began_ms * 1_000)
    ended = "timed_out" if timed_out else "failed"
    ending: dict[str, object] = {"status": status, "ended": ended, "duration_ms": elapsed_us // 1_000}
    if timed_out:
        return _settle(ticket, _written_within(ticket, elapsed_us, learned), Basis.ESTIMATED, ending)
    return _release(ticket, requests=int(sent), ending=ending)


def counted_output(reading: Reading, learned: Learned) -> int:
    """The output tokens of a stream so far: as reported, where it reports as it goes, and by the bytes of its text."""
    reported = reading.usage.output_tokens if reading.usage is not None and reading.output_known else 0
    return max(reported, _passed(reading, learned))


def _passed(reading: Reading, learned: Learned) -> int:
    return tokens_of(reading.output_bytes, _charge_bytes_per_token_milli(learned))


def _charge_bytes_per_token_milli(learned: Learned) -> int:
    """Of generated text: as of the prompts, which are the same kind of text to the same tokenizer."""
    return learned.charge_bytes_per_token_milli or CHARGE_BYTES_PER_TOKEN_MILLI


def _while_waiting(ticket: Ticket, record: EndRecord, learned: Learned) -> Usage:
    """What a provider has probably spent on an answer of which no byte came back."""
    return _written_within(ticket, record.duration_us - ticket.began_ms * 1_000, learned)


def _written_within(ticket: Ticket, elapsed_us: int, learned: Learned) -> Usage:
    written = max(0, elapsed_us) * (learned.tokens_per_second or TOKENS_PER_SECOND) // 1_000_000
    return Usage(input_uncached=ticket.input_tokens, output=_within_limit(ticket, written))


def _within_limit(ticket: Ticket, output_tokens: int) -> int:
    return max(1, min(output_tokens, ticket.output_limit))


def _settle(
    ticket: Ticket, usage: Usage, basis: Basis, ending: dict[str, object], *, parts: tuple[Usage, ...] = ()
) -> Resolution:
    usage = _with_units(usage, ticket)
    if basis is Basis.ESTIMATED:
        usage = _of_its_kind(usage, registry.dialect(ticket.dialect))
    if ticket.price.counts_time and isinstance(served_ms := ending["duration_ms"], int):
        usage = replace(usage, served_ms=served_ms)
    priced = usage if usage.requests else replace(usage, requests=1)
    charge = Charge(
        cost_nanodollars=ticket.price.charge_nanodollars(priced, parts),
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        requests=1,
    )
    return Resolution(ticket.hold_id, charge, basis, journal_detail(ticket, usage, ending), ticket.realms)


def _of_its_kind(usage: Usage, dialect: Dialect) -> Usage:
    """Estimates are of text; an image or a recording has rates of its own."""
    kinds = (("input_uncached", dialect.input_kind), ("output", dialect.output_kind))
    for text, kind in kinds:
        count = getattr(usage, text)
        if kind != text and count:
            usage = replace(usage, **{text: 0, kind: getattr(usage, kind) + count})
    return usage


def _with_units(usage: Usage, ticket: Ticket) -> Usage:
    """The units that the request told of, where they have a price and the answer does not tell."""
    told = ticket.units
    if told is NO_USAGE:
        return usage
    billed = [name for name in UNITS if ticket.price.bills((name,)) and not getattr(usage, name)]
    missing = {name: count for name in billed if (count := getattr(told, name))}
    return replace(usage, **missing) if missing else usage


def _release(ticket: Ticket, *, requests: int, ending: dict[str, object]) -> Resolution:
    detail = journal_detail(ticket, Usage(), ending)
    return Resolution(ticket.hold_id, Charge(requests=requests), Basis.RELEASED, detail, ticket.realms)


def journal_detail(ticket: Ticket, usage: Usage, ending: dict[str, object]) -> str:
    """The part of the journal entry that is known at the end."""
    return compact(
        {
            "served_model": ticket.target,
            "verdict": ticket.verdict,
            **({"verdict_rule": ticket.verdict_rule} if ticket.verdict_rule else {}),
            "would_refuse": ticket.would_refuse,
            "would_downgrade": ticket.would_downgrade,
            "usage": usage.counts(),
            "price_version": ticket.price.version,
            "rates_picodollars": _rates(ticket, usage),
            **ending,
        }
    )


def _rates(ticket: Ticket, usage: Usage) -> dict[str, int]:
    """The rates that priced the kinds of usage that occurred."""
    rates = ticket.price.rates_for(usage)
    return {name: rate for name in usage.counts() if (rate := getattr(rates, name)) is not None}


def _elapsed_ms(ticket: Ticket, now_us: int) -> int:
    return max(0, (now_us - minted_us(ticket.hold_id)) // 1_000 - ticket.began_ms)


def _ended(record: EndRecord) -> str:
    if record.client_gone:
        return "client_gone"
    if record.timed_out:
        return "timed_out"
    if record.upstream_failed:
        return "upstream_failed"
    return "complete"
