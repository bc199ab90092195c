"""An explanation as one JSON document: amounts are integers in the unit's smallest step (nano-dollars, tokens)."""

from __future__ import annotations

from ext_proc.exchange.effects import Forward, PassUnmetered, Refuse
from ext_proc.exchange.explain import Asked, Explanation, Way
from ext_proc.exchange.planning import held_rates
from ext_proc.ledger.interface import Code
from ext_proc.ledger.units import rfc3339, unit_name
from ext_proc.policy.trials import Trial


def as_json(found: Explanation) -> dict[str, object]:
    """The whole explanation, every rule included."""
    return {
        "request": {
            "method": found.head.method,
            "path": found.head.path,
            "body_bytes": found.body_bytes,
            "time": rfc3339(found.head.now_us),
        },
        "policy_version": found.version,
        "live_balances": found.live,
        "caller": _caller(found),
        "ignored_headers": list(found.ignored_headers),
        "model": _model(found),
        "rules": [_rule(found, trial) for trial in found.trials],
        "ways": [_way(way) for way in found.ways],
        "verdict": _verdict(found),
    }


def _caller(found: Explanation) -> dict[str, object] | None:
    caller = found.caller
    if caller is None:
        return None
    return {
        "user": caller.user,
        "team": caller.team,
        "virtual_account": caller.virtual_account,
        "tenant": caller.tenant,
        "plan": caller.plan,
        "key": caller.key_id,
        "verified": caller.verified,
        "source": caller.source.value,
        "tags": dict(caller.tags),
        "overridden_tags": list(caller.overridden),
    }


def _model(found: Explanation) -> dict[str, object] | None:
    read = found.understood
    if read is None:
        return None
    return {
        "requested": read.facts.model,
        "target": read.target.name,
        "dialect": read.endpoint.dialect.name,
        "routed_by": None if read.routed.rule is None else read.routed.rule.id,
        "options": [option.target.name for option in read.routed.options],
        "saving": read.saved.rule or None,
        "left_out": [{"rule": refusal.rule, "why": refusal.message} for refusal in read.routed.barred],
    }


def _rule(found: Explanation, trial: Trial) -> dict[str, object]:
    rule: dict[str, object] = {
        "rule": trial.rule,
        "document_type": trial.document_type,
        "document": trial.document or None,
        "matches": trial.matches,
        "why_not": trial.why_not or None,
    }
    if trial.matched is None:
        return rule
    account = trial.matched.account
    standing = found.standings.get(account)
    return {
        **rule,
        "expanded": account.expanded_id,
        "bucket": dict(account.bucket),
        "unit": unit_name(account.measure, account.window),
        "decides": trial.matched.deciding,
        "audit": trial.matched.audit,
        "silenced_by": trial.silenced_by,
        "cap": account.cap,
        "spent": None if standing is None else standing.spent,
        "held": None if standing is None else standing.held,
        "latched": None if standing is None else standing.latched,
    }


def _way(way: Way) -> dict[str, object]:
    candidate, rates = way.candidate, held_rates(way.candidate)
    bound = candidate.bounds.input
    refused = {state.account: state.refused for state in way.reply.states if state.refused is not None}

    def asks(asked: Asked) -> dict[str, object]:
        because = refused.get(asked.account)
        return {
            "rule": asked.account.expanded_id,
            "unit": unit_name(asked.account.measure, asked.account.window),
            "decides": asked.posting.deciding,
            "amount": asked.amount,
            "fixed": asked.posting.fixed,
            "resets_at": None if asked.window_end_us is None else rfc3339(asked.window_end_us),
            "refused_because": None if because is None else because.value,
        }

    return {
        "target": candidate.target.name,
        "price_version": candidate.target.price.version,
        "unpriced": candidate.target.unpriced,
        "throttled": bool(candidate.throttled),
        "fallbacks": [fallback.target.name for fallback in candidate.fallbacks],
        "input": {
            "tokens": bound.tokens,
            "prompt_bytes": bound.prompt_bytes,
            "bytes_per_token": bound.bytes_per_token_milli / 1_000,
            "learned": bound.learned,
            "overhead_tokens": bound.overhead_tokens,
            "external_inputs": bound.external_inputs,
            "context_window": bound.window,
        },
        "output": {
            "least": candidate.bounds.output_min,
            "most": candidate.bounds.output_max,
            "tokens": way.output_tokens,
            "learned": candidate.bounds.output_learned,
        },
        "rates_picodollars": {"input": rates.input, "output": rates.output, "request": rates.request},
        "admissible": way.reply.code is Code.HELD,
        "only_after": None if candidate.after is None else candidate.after.account.expanded_id,
        "only_once": None if candidate.after is None else "exhausted" if candidate.exhausted else "constrained",
        "chosen": way.chosen,
        "asks": [asks(asked) for asked in way.asked],
    }


def _verdict(found: Explanation) -> dict[str, object]:
    match found.outcome:
        case Forward(ticket=ticket, answer=answer):
            return {
                "verdict": ticket.verdict,
                "text": answer["verdict"],
                "target": ticket.target,
                "output_limit": ticket.output_limit,
                "cut_by": [] if ticket.cut is None else [rule for rule, _ in ticket.cut.rules],
                "would_refuse": list(ticket.would_refuse),
                "would_downgrade": list(ticket.would_downgrade),
            }
        case PassUnmetered(account=account):
            return {"verdict": "unmetered", "account": account}
        case Refuse(refusal=refusal, body=body, headers=headers):
            return {
                "verdict": "refuse",
                "status": refusal.status.value,
                "type": refusal.type.value,
                "rule": refusal.rule,
                "headers": headers,
                "body": body,
            }
