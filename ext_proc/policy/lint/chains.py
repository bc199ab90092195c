"""Chains that ask for more than Envoy can do: it leads the n-th attempt to the n-th account of a sequence, and knows
one time limit for all attempts of a request. What is kept otherwise than written is said here, never dropped silently.
"""

from __future__ import annotations

from collections.abc import Iterator

from ext_proc.policy.documents.routing import RoutingDocument, RoutingRule, Target, duration_seconds
from ext_proc.policy.errors import PolicyError
from ext_proc.policy.scalars import shown
from ext_proc.policy.snapshot import Snapshot
from ext_proc.routing.chains import ATTEMPTS_MAX, depth
from ext_proc.routing.health import KEPT_SECONDS
from ext_proc.routing.virtual_models import RESERVED_PARAMS, RETRY_DELAY_MAX_MS, first_byte_ms, member_of


def chain_warnings(snapshot: Snapshot) -> Iterator[PolicyError]:
    """Every warning about what a chain asks for and cannot have."""
    for document in snapshot.documents_of(RoutingDocument):
        for rule in document.rules:
            yield from _limits(rule)
            yield from _depth(rule)
            for target in rule.load_balance_targets:
                yield from _retries(target, alone=len(rule.load_balance_targets) == 1)
                yield from _windows(target)
                yield from _reserved(target)


def _limits(rule: RoutingRule) -> Iterator[PolicyError]:
    """One limit holds for all attempts of a request: the longest that is written."""
    own = {target.target: first_byte_ms(member_of(target)) for target in rule.load_balance_targets}
    longest = max((limit for limit in own.values() if limit is not None), default=None)
    if longest is None:
        return
    for target in rule.load_balance_targets:
        limit = own[target.target]
        if limit == longest:
            continue
        field = "target" if limit is None else "timeout_ms" if limit == target.timeout_ms else "sla_cutoff"
        written = "is none: it is cut after" if limit is None else f"of {limit} ms is kept as"
        problem = f"the time limit {written} {longest} ms: Envoy keeps one for all attempts of a request, the longest"
        yield target.where.error(field, problem, f"write timeout_ms: {longest}, or make all limits alike")


def _depth(rule: RoutingRule) -> Iterator[PolicyError]:
    targets = rule.load_balance_targets
    tried = depth(len(targets))
    if len(targets) > tried:
        problem = f"has {len(targets)} targets, of which one request tries {tried}: each order is a cluster of Envoy's"
        yield rule.where.error("load_balance_targets", problem, "name fewer, or count on the first of them")
    longest = sorted((member_of(target).tries for target in targets), reverse=True)[:tried]
    if sum(longest) > ATTEMPTS_MAX:
        problem = f"asks for up to {sum(longest)} attempts; one request makes at most {ATTEMPTS_MAX}"
        yield rule.where.error("load_balance_targets", problem, "grant fewer retries")


def _retries(target: Target, *, alone: bool) -> Iterator[PolicyError]:
    retry = target.retry_config
    if retry is None or not retry.attempts:
        return
    if retry.delay > RETRY_DELAY_MAX_MS:
        problem = f"waits {RETRY_DELAY_MAX_MS} ms, no longer: the client waits too"
        yield retry.where.error("delay", problem, f"write at most {RETRY_DELAY_MAX_MS}")
    member = member_of(target)
    skipping = [str(status) for status in member.statuses if status not in member.retry_statuses]
    if skipping and not alone:
        problem = f"leaves out {', '.join(skipping)}, after which the same target is tried again before the next one"
        yield retry.where.error(
            "on_status_codes", problem, "list them here too, or grant no retries: Envoy cannot leave an attempt out"
        )


def _windows(target: Target) -> Iterator[PolicyError]:
    leave = target.fallback_when
    for condition in (*leave.any, *leave.all) if leave is not None else ():
        seconds = 0 if condition.window is None else duration_seconds(condition.window) or 0
        if seconds > KEPT_SECONDS:
            problem = f"looks back {KEPT_SECONDS // 60} minutes, no further: older counts are forgotten"
            yield condition.where.error("window", problem, f"write {KEPT_SECONDS // 60}m")


def _reserved(target: Target) -> Iterator[PolicyError]:
    for name in RESERVED_PARAMS & set(target.override_params):
        problem = f"{shown(name)} cannot be overridden: the model is the target's, streaming is the client's"
        yield target.where.error(f"override_params.{name}", problem, "remove it")
