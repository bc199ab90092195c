"""An explanation as text for a person: short enough to read, whole enough to paste into a ticket."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from ext_proc.exchange.bounds import EXTERNAL_INPUT_TOKENS, InputBound
from ext_proc.exchange.effects import Forward, PassUnmetered, Refuse
from ext_proc.exchange.explain import Asked, Explanation, Way
from ext_proc.exchange.planning import held_rates
from ext_proc.identity.caller import Caller
from ext_proc.ledger.interface import AccountSpec, AccountState, Code, Measure, RefusedBecause
from ext_proc.ledger.units import amount_text, rfc3339, unit_name
from ext_proc.policy.trials import Trial
from ext_proc.pricing.money import dollars

NOT_MATCHING_SHOWN = 20
"""How many rules that do not match are listed; a large set has thousands."""

_MILLI = 1_000
_PICODOLLARS = 1_000_000  # a rate of one pico-dollar per token is so many of them per million tokens

_BECAUSE = {
    RefusedBecause.SPENT: "too much is spent",
    RefusedBecause.CONTENDED: "requests in flight hold too much",
    RefusedBecause.NEVER_FITS: "it alone exceeds the cap",
    RefusedBecause.CONSTRAINED: "the account is constrained",
    RefusedBecause.LATCHED: "the account is shut until it is resumed",
}


def as_text(found: Explanation, *, every_rule: bool = False) -> str:
    """The whole explanation. `every_rule`: list all rules that do not match."""
    sections = (_request(found), _rules(found, every_rule=every_rule), _hold(found), _verdict(found))
    return "\n\n".join("\n".join(lines) for section in sections if (lines := list(section))) + "\n"


def _request(found: Explanation) -> Iterator[str]:
    head = found.head
    against = "live balances" if found.live else "empty accounts"
    yield f"{head.method} {head.path}, {found.body_bytes:,} bytes, at {rfc3339(head.now_us)}"
    yield f"policy set {found.version}, judged against {against}"
    yield ""
    if found.caller is not None:
        yield f"caller  {_caller(found.caller)}"
        tags = " ".join(f"{key}={value}" for key, value in found.caller.tags.items())
        yield f"tags    {tags or 'none'}"
        if found.caller.overridden:
            yield f"        overridden by policy: {', '.join(found.caller.overridden)}"
    if found.understood is not None:
        read = found.understood
        yield f"model   {read.facts.model} → {read.target.name} ({read.endpoint.dialect.name})"
        if read.saved.rule:
            yield f"saving  {read.saved.rule}: {read.asked.options[0].target.name} gives way to {read.target.name}"
        yield from (f"saving  {rule} is in audit mode and would have swapped the model" for rule in read.saved.audited)
        if read.routed.rule is not None:
            chain = ", ".join(option.target.name for option in read.routed.options)
            yield f"route   {read.routed.rule.id}: {chain}; other requests may be drawn another order"
            yield from (f"        left out: {refusal.message}" for refusal in read.routed.barred)
    if found.unasked is not None:
        scorer = found.unasked.scorer
        yield f"note    {scorer.url}, the scorer of {found.unasked.rule_id}, is not asked here: as without a score"
    if found.ignored_headers:
        yield f"note    these headers mean nothing here and are ignored: {', '.join(found.ignored_headers)}"


def _caller(caller: Caller) -> str:
    named = (
        ("user", caller.user),
        ("team", caller.team),
        ("virtual account", caller.virtual_account),
        ("tenant", caller.tenant),
        ("plan", caller.plan),
        ("key", caller.key_id),
    )
    who = ", ".join(f"{kind} {value}" for kind, value in named if value)
    if not who:
        return "nobody: no key, and no tag `user`"
    return who if caller.verified else f"{who} (unverified: only the tag says so)"


def _rules(found: Explanation, *, every_rule: bool) -> Iterator[str]:
    if not found.trials:
        return
    matching = [trial for trial in found.trials if trial.matches]
    others = [trial for trial in found.trials if not trial.matches]
    yield f"rules that match: {len(matching)} of {len(found.trials)}"
    yield from _table((*_matching(trial), _balance(found, trial)) for trial in matching)
    if others:
        yield "rules that do not:"
        listed = others if every_rule else others[:NOT_MATCHING_SHOWN]
        yield from _table((trial.rule, _place(trial), trial.why_not) for trial in listed)
        if len(listed) < len(others):
            yield f"  … and {len(others) - len(listed):,} more"


def _matching(trial: Trial) -> tuple[str, str, str]:
    matched = trial.matched
    if matched is None:
        return ("applies", trial.rule, _place(trial))
    if matched.deciding:
        does = "decides"
    elif matched.audit:
        does = "tracks, in audit mode"
    else:
        does = f"tracks, {trial.silenced_by} decides"
    return (does, matched.account.expanded_id, _place(trial))


def _place(trial: Trial) -> str:
    kind = trial.document_type.removeprefix("gateway-").removesuffix("-config")
    return f"{kind} {trial.document}".rstrip()


def _balance(found: Explanation, trial: Trial) -> str:
    if trial.matched is None:
        return ""
    account = trial.matched.account
    standing = found.standings.get(account)
    cap = f"{amount_text(account, account.cap)}, {unit_name(account.measure, account.window)}"
    if standing is None:
        return f"cap {cap}"
    ends_us = found.ends_us.get(account)
    resets = "" if ends_us is None else f", resets {rfc3339(ends_us)}"
    latched = ", LATCHED" if standing.latched else ""
    return f"{amount_text(account, standing.spent)} spent, {amount_text(account, standing.held)} held of {cap}" + (
        resets + latched
    )


def _hold(found: Explanation) -> Iterator[str]:
    for number, way in enumerate(found.ways, start=1):
        if number > 1:
            yield ""
        yield from _way(found, way, f"way {number} of {len(found.ways)}: " if len(found.ways) > 1 else "hold: ")


def _way(found: Explanation, way: Way, label: str) -> Iterator[str]:
    candidate, rates = way.candidate, held_rates(way.candidate)
    price = candidate.target.price.version
    slower = ", slowed down" if candidate.throttled else ""
    yield f"{label}{candidate.target.name}{slower}, priced by {price}" + (
        " (its own price is unknown)" if candidate.target.unpriced else ""
    )
    if candidate.fallbacks:
        others = ", ".join(fallback.target.name for fallback in candidate.fallbacks)
        yield f"  may fail over to {others}: held for the dearest"
    yield f"  input   {_input(candidate.bounds.input)}"
    yield f"  output  {_output(found, way)}"
    request = f", {_dollars_of(rates.request)} per request" if rates.request else ""
    yield (
        f"  rates   {_dollars_of(rates.input * _PICODOLLARS)} per million input tokens, "
        f"{_dollars_of(rates.output * _PICODOLLARS)} output{request}: the dearest it can be billed at"
    )
    refusing = {state.account: state for state in way.reply.states if state.refused is not None}
    yield from _table((*_asks(asked), _answer(refusing.get(asked.account))) for asked in way.asked)
    if way.chosen:
        yield "  → taken"
    elif way.reply.code is Code.HELD:
        yield "  admissible, but an earlier way is taken"
    elif candidate.after is not None and not refusing:
        how = "exhausted" if candidate.exhausted else "constrained"
        yield f"  only once {candidate.after.account.expanded_id} is {how}"
    else:
        yield "  not admissible"


def _input(bound: InputBound) -> str:
    if bound.window:
        return f"at most {bound.tokens:,} tokens: the model's context window"
    per_token = f"{bound.bytes_per_token_milli / _MILLI:g}"
    known = " (learned)" if bound.learned else ""
    parts = [f"{bound.prompt_bytes:,} bytes of prompt ÷ {per_token} bytes per token{known}"]
    if bound.overhead_tokens:
        parts.append(f"{bound.overhead_tokens:,} for messages and tools")
    if bound.external_inputs:
        parts.append(f"{bound.external_inputs} × {EXTERNAL_INPUT_TOKENS:,} for content outside the body")
    return f"at most {bound.tokens:,} tokens: {' + '.join(parts)}"


def _output(found: Explanation, way: Way) -> str:
    assert found.understood is not None, "a way was found for a request that was read"
    facts, bounds = found.understood.facts, way.candidate.bounds
    if facts.output_limit is not None:
        source = "the request's own limit"
    elif found.output_cap is not None:
        source = "a guardrail's cap, for the request names no limit"
    elif bounds.output_learned:
        source = "learned from earlier answers, for the request names no limit"
    else:
        source = "default_output_tokens, for the request names no limit"
    choices = f" × {facts.choices} choices" if facts.choices > 1 else ""
    per_choice = bounds.output_max // facts.choices
    least = f"; may be shortened to {bounds.output_min:,}" if bounds.output_min < bounds.output_max else ""
    shortened = f"; shortened to {way.output_tokens:,}" if way.chosen and way.output_tokens < bounds.output_max else ""
    return f"at most {bounds.output_max:,} tokens: {per_choice:,}{choices}, {source}{shortened or least}"


def _asks(asked: Asked) -> tuple[str, str]:
    account, posting = asked.account, asked.posting
    output = asked.amount - posting.fixed
    text = amount_text(account, asked.amount)
    if posting.fixed and output:
        text += f" = {_figure(account, posting.fixed)} for input + {_figure(account, output)} for output"
    return (account.expanded_id, text)


def _figure(account: AccountSpec, amount: int) -> str:
    return dollars(amount) if account.measure is Measure.COST else f"{amount:,}"


def _answer(state: AccountState | None) -> str:
    return "" if state is None or state.refused is None else f"✗ {_BECAUSE[state.refused]}"


def _verdict(found: Explanation) -> Iterator[str]:
    match found.outcome:
        case Forward(ticket=ticket, answer=answer):
            yield f"verdict: {answer['verdict']}"
            yield f"  served by {ticket.target}, at most {ticket.output_limit:,} output tokens"
            if ticket.cut is not None:
                rules = " or ".join(rule for rule, _ in ticket.cut.rules)
                yield f"  cut beyond that, should {rules} be exhausted by then"
            for rule in ticket.would_refuse:
                yield f"  {rule} is in audit mode and would have refused"
            for rule in ticket.would_downgrade:
                yield f"  {rule} is in audit mode and would have swapped the model"
        case PassUnmetered(account=account):
            yield f"verdict: pass, unmetered, to {account}"
        case Refuse(refusal=refusal, headers=headers):
            by = f" by {refusal.rule}" if refusal.rule else ""
            yield f"verdict: refuse, {refusal.status.value} {refusal.type.value}{by}"
            yield f"  {refusal.message}"
            yield f"  {refusal.mitigation}"
            for name in ("retry-after", "x-should-retry"):
                if name in headers:
                    yield f"  {name}: {headers[name]}"


def _dollars_of(picodollars: int) -> str:
    return dollars(picodollars // _MILLI)


def _table(rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Columns side by side; the last one is as wide as it is."""
    cells = [list(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*(row[:-1] for row in cells), strict=True)]
    for row in cells:
        padded = (cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=True))
        yield ("  " + "  ".join((*padded, row[-1]))).rstrip()
