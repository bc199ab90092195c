"""Refusals of budgets and rate limits: from the ledger's figures to one answer that tells the caller what to do next.

A request that several controls refuse gets one answer: it names the most lasting one, lists the rest in
`also_exceeded`, and its `retry-after` is the longest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus

from ext_proc.ledger.interface import AccountSpec, AccountState, HoldReply, Period, RefusedBecause, WindowKind
from ext_proc.ledger.units import amount_text, rfc3339, unit_name
from ext_proc.policy.links import filled
from ext_proc.policy.rules import NONE_SHOWN
from ext_proc.policy.snapshot import MatchedRule, Settings
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
    """What the refused request asked for: how many output tokens it bounded, its rules by their accounts, its tags."""

    output_max: int
    output_milli: Mapping[AccountSpec, int]
    rules: Mapping[AccountSpec, MatchedRule]
    tags: Mapping[str, str]

    def link(self, link: str, account: AccountSpec) -> str:
        """A link with its places filled in for the refusing account."""
        return filled(link, rule=account.expanded_id, tags=self.tags)


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
        mitigation=asked.rules[worst.account].mitigation or _mitigation(worst, asked, settings),
        context=_context(worst, rest, asked, settings),
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


def _named(rule: MatchedRule) -> dict[str, str]:
    """Whom the budget belongs to, by kind: its bucket, then the one tag or caller that its `when` names."""
    named = {
        key.removeprefix("metadata."): NONE_SHOWN if value is None else value for key, value in rule.account.bucket
    }
    if rule.subject is not None:
        named.setdefault(*rule.subject)
    return named


def _subject(rule: MatchedRule) -> str:
    """Whom the budget belongs to, in words: `Cost center 'search'`, or the rule."""
    for key, value in _named(rule).items():
        return f"{_words(key).capitalize()} '{value}'"
    return f"Budget '{rule.account.expanded_id}'"


def _words(key: str) -> str:
    return {"virtualaccount": "virtual account"}.get(key, key.replace("_", " "))


def _message(state: AccountState, asked: Asked) -> str:
    account = state.account
    cap = amount_text(account, account.cap).removesuffix(".00")
    if _is_rate(account):
        return _rate_message(state, cap)
    subject, adjective = _subject(asked.rules[account]), _ADJECTIVES[account.window.period]
    budget = f"{adjective} {cap} AI budget"
    if state.refused is RefusedBecause.NEVER_FITS:
        return (
            f"This request may use up to {amount_text(account, state.asked)}, more than the whole {budget} of "
            f"{_lower_first(subject)}{_fitting(state, asked)}."
        )
    if state.refused is RefusedBecause.LATCHED:
        return f"{subject} has exhausted its {budget} and stays shut until it is resumed by hand."
    if state.refused is RefusedBecause.CONSTRAINED:
        spent = amount_text(account, state.spent)
        return f"{subject} has spent {spent} of its {budget} and is constrained: premium models are not served to it."
    if state.refused is RefusedBecause.CONTENDED:
        left = amount_text(account, max(0, account.cap - state.spent))
        return f"{subject} has {left} left of its {budget}, but requests in flight hold too much of it."
    if state.spent >= account.cap:
        return f"{subject} has exhausted its {budget}."
    left, may_use = amount_text(account, account.cap - state.spent), amount_text(account, state.asked)
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
        may_use = amount_text(account, state.asked)
        return f"This request may use up to {may_use}, more than {_lower_first(limit)} ever allows."
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


def _mitigation(state: AccountState, asked: Asked, settings: Settings) -> str:
    quota = asked.link(settings.quota_request_link, state.account)
    if state.refused is RefusedBecause.NEVER_FITS:
        return f"Lower the output limit or shorten the prompt, or request a higher quota at {quota}."
    if _is_rate(state.account):
        return f"Slow down and retry after the time given, or request a higher limit at {quota}."
    if state.refused is RefusedBecause.CONTENDED:
        return "Retry shortly: what the requests in flight do not use is given back when they end."
    where = "who spends it" if state.top_consumer is None else f"{_words(state.top_consumer.tag)} logs"
    return f"Review {where} for runaway loops, or request a quota increase at {quota}."


def _context(worst: AccountState, rest: list[AccountState], asked: Asked, settings: Settings) -> dict[str, object]:
    account = worst.account
    rule = asked.rules[account]
    context: dict[str, object] = {
        "rule": account.expanded_id,
        "unit": unit_name(account.measure, account.window),
        "spent_to_date": amount_text(account, worst.spent),
        "held": amount_text(account, worst.held),
        "cap": amount_text(account, account.cap),
        "resets_at": None if worst.window_end_us is None else rfc3339(worst.window_end_us),
    }
    context |= {key: value for key, value in _named(rule).items() if key not in context}
    if _type(worst) is RefusalType.BUDGET_EXCEEDED and worst.top_consumer is not None and worst.spent > 0:
        top = worst.top_consumer
        context["top_consumer"] = f"{top.tag}={top.value} · {top.spent * 100 // worst.spent}% of spend"
    dashboard = rule.dashboard or settings.dashboard_link
    if dashboard:
        context["dashboard"] = asked.link(dashboard, account)
    context["also_exceeded"] = [state.account.expanded_id for state in rest]
    return context
