"""Refusals of budgets and rate limits: from the ledger's figures to one answer that tells the caller what to do next.

A request that several controls refuse gets one answer: it names the most lasting one, lists the rest in
`also_exceeded`, and its `retry-after` is the longest.
"""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus

from ext_proc.ledger.interface import AccountSpec, AccountState, HoldReply, Measure, Period, RefusedBecause, WindowKind
from ext_proc.ledger.units import rfc3339, unit_name
from ext_proc.policy.snapshot import Settings
from ext_proc.pricing.money import dollars
from ext_proc.refusal import Refusal, RefusalType

CONTENDED_RETRY_SECONDS = 1
"""Open holds settle within seconds: the SDKs' own back-off starts from here."""

_ADJECTIVES = {
    Period.HOUR: "hourly",
    Period.DAY: "daily",
    Period.WEEK: "weekly",
    Period.MONTH: "monthly",
    Period.QUARTER: "quarterly",
    None: "lifetime",
}

# How lasting a reason is: what a caller must know first.
_LASTING = (
    RefusedBecause.NEVER_FITS,
    RefusedBecause.LATCHED,
    RefusedBecause.SPENT,
    RefusedBecause.CONSTRAINED,
    RefusedBecause.CONTENDED,
)


@dataclass(frozen=True, slots=True)
class Asked:
    """What the refused request asked for: how many output tokens it bounded, and the mitigation texts of its rules."""

    output_max: int
    output_milli: dict[AccountSpec, int]
    mitigations: dict[AccountSpec, str]


def ledger_refusal(reply: HoldReply, asked: Asked, settings: Settings, now_us: int) -> Refusal:
    """The answer to a REFUSED hold."""
    refusing = [state for state in reply.states if state.refused is not None]
    assert refusing, "a refusal names the account that stood in the way"
    refusing.sort(
        key=lambda state: (_LASTING.index(state.refused or RefusedBecause.SPENT), -_wait_seconds(state, now_us))
    )
    worst, *rest = refusing
    retry_after = max(_wait_seconds(state, now_us) for state in refusing)
    permanent = worst.refused in {RefusedBecause.NEVER_FITS, RefusedBecause.LATCHED}
    soon = worst.refused is RefusedBecause.CONTENDED or _is_rate(worst.account)
    return Refusal(
        type=_type(worst),
        status=_status(worst),
        message=_message(worst, asked),
        mitigation=asked.mitigations.get(worst.account) or _mitigation(worst, settings),
        context=_context(worst, rest, settings),
        retry_after_seconds=None if permanent else retry_after,
        should_retry=None if soon and not permanent else False,
        template=worst.account.rule_id,
    )


def store_refusal() -> Refusal:
    """The answer when Redis does not answer and the rules say refuse."""
    return Refusal(
        type=RefusalType.STORE_UNAVAILABLE,
        status=HTTPStatus.SERVICE_UNAVAILABLE,
        message="The spend ledger is not reachable, so this request cannot be admitted against its budgets.",
        mitigation="Retry shortly; if it lasts, tell the platform team that Tollgate has lost its Redis.",
        retry_after_seconds=CONTENDED_RETRY_SECONDS,
    )


def _is_rate(account: AccountSpec) -> bool:
    return account.window.kind in {WindowKind.SLIDING, WindowKind.OPEN}


def _wait_seconds(state: AccountState, now_us: int) -> int:
    """Until trying again can help: whole seconds, at least one."""
    if state.refused is RefusedBecause.CONTENDED or state.window_end_us is None:
        return CONTENDED_RETRY_SECONDS
    return max(1, -(-(state.window_end_us - now_us) // 1_000_000))


def _type(state: AccountState) -> RefusalType:
    if _is_rate(state.account):
        return RefusalType.RATE_LIMITED
    if state.refused is RefusedBecause.CONTENDED:
        return RefusalType.BUDGET_CONTENDED
    return RefusalType.BUDGET_EXCEEDED


def _status(state: AccountState) -> HTTPStatus:
    # A request that alone exceeds a rate limit would be told to retry for ever by a 429.
    if state.refused is RefusedBecause.NEVER_FITS and _is_rate(state.account):
        return HTTPStatus.BAD_REQUEST
    return HTTPStatus.TOO_MANY_REQUESTS


def _amount(account: AccountSpec, amount: int) -> str:
    if account.measure is Measure.COST:
        return dollars(amount)
    noun = "requests" if account.measure in {Measure.REQUESTS, Measure.CONCURRENT} else account.measure.value
    return f"{amount:,} {noun.replace('_', ' ')}"


def _subject(account: AccountSpec) -> str:
    """Who the budget belongs to, in words: `Cost center 'search'`, or the rule."""
    for key, value in account.bucket:
        name = key.removeprefix("metadata.").replace("_", " ")
        return f"{name.capitalize()} '{value if value is not None else '(none)'}'"
    return f"Budget '{account.expanded_id}'"


def _message(state: AccountState, asked: Asked) -> str:
    account = state.account
    cap = _amount(account, account.cap).removesuffix(".00")
    if _is_rate(account):
        return _rate_message(state, cap)
    subject, adjective = _subject(account), _ADJECTIVES[account.window.period]
    budget = f"{adjective} {cap} AI budget"
    if state.refused is RefusedBecause.NEVER_FITS:
        return (
            f"This request may use up to {_amount(account, state.asked)}, more than the whole {budget} of "
            f"{_lower_first(subject)}{_fitting(state, asked)}."
        )
    if state.refused is RefusedBecause.LATCHED:
        return f"{subject} has exhausted its {budget} and stays shut until it is resumed by hand."
    if state.refused is RefusedBecause.CONSTRAINED:
        spent = _amount(account, state.spent)
        return f"{subject} has spent {spent} of its {budget} and is constrained: premium models are not served to it."
    if state.refused is RefusedBecause.CONTENDED:
        left = _amount(account, max(0, account.cap - state.spent))
        return f"{subject} has {left} left of its {budget}, but requests in flight hold too much of it."
    if state.spent >= account.cap:
        return f"{subject} has exhausted its {budget}."
    left, may_use = _amount(account, account.cap - state.spent), _amount(account, state.asked)
    return (
        f"{subject} has {left} left of its {budget}, too little for this request, which may use up to {may_use}"
        f"{_fitting(state, asked)}."
    )


def _rate_message(state: AccountState, cap: str) -> str:
    account = state.account
    if account.window.kind is WindowKind.OPEN:
        return f"Rate limit '{account.expanded_id}' of {account.cap:,} concurrent requests is reached."
    assert account.window.period is not None, "a sliding window has a period"
    limit = f"Rate limit '{account.expanded_id}' of {cap} per {account.window.period.value}"
    if state.refused is RefusedBecause.NEVER_FITS:
        return (
            f"This request may use up to {_amount(account, state.asked)}, more than {_lower_first(limit)} ever allows."
        )
    return f"{limit} is exceeded."


def _fitting(state: AccountState, asked: Asked) -> str:
    """The output limit that would fit, where shrinking the output can help."""
    milli = asked.output_milli.get(state.account, 0)
    if milli <= 0 or asked.output_max <= 0:
        return ""
    over = state.asked - (state.account.cap - (0 if state.refused is RefusedBecause.NEVER_FITS else state.spent))
    fitting = asked.output_max - -(-over * 1_000 // milli)
    return f"; an output limit of {fitting:,} tokens would fit" if fitting > 0 else ""


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]


def _mitigation(state: AccountState, settings: Settings) -> str:
    if state.refused is RefusedBecause.NEVER_FITS:
        return (
            f"Lower the output limit or shorten the prompt, or request a higher quota at {settings.quota_request_link}."
        )
    if _is_rate(state.account):
        return f"Slow down and retry after the time given, or request a higher limit at {settings.quota_request_link}."
    if state.refused is RefusedBecause.CONTENDED:
        return "Retry shortly: what the requests in flight do not use is given back when they end."
    return f"Review who spends it for runaway loops, or request a quota increase at {settings.quota_request_link}."


def _context(worst: AccountState, rest: list[AccountState], settings: Settings) -> dict[str, object]:
    account = worst.account
    context: dict[str, object] = {
        "rule": account.expanded_id,
        "unit": unit_name(account.measure, account.window),
        "spent_to_date": _amount(account, worst.spent),
        "held": _amount(account, worst.held),
        "cap": _amount(account, account.cap),
        "resets_at": None if worst.window_end_us is None else rfc3339(worst.window_end_us),
    }
    for key, value in account.bucket:
        context[key.removeprefix("metadata.")] = value if value is not None else "(none)"
    if settings.dashboard_link:
        context["dashboard"] = settings.dashboard_link
    context["also_exceeded"] = [state.account.expanded_id for state in rest]
    return context
