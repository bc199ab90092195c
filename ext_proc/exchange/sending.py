"""A request as one target gets it: path and body."""

from __future__ import annotations

from dataclasses import dataclass

from ext_proc.dialects import jsonbody
from ext_proc.dialects.form import FormDocument
from ext_proc.dialects.interface import Dialect, RequestFacts, Rewrite
from ext_proc.exchange.targets import Target
from ext_proc.exchange.terms import upstream_path


@dataclass(frozen=True, slots=True)
class Outgoing:
    """What is sent. `body` None: as the client sent it."""

    path: str
    body: bytes | None


def outgoing(
    dialect: Dialect,
    path: str,
    facts: RequestFacts,
    target: Target,
    output_limit: int | None,
    *,
    overridden: bool = False,
) -> Outgoing:
    """The request for a target. `path` is the endpoint's; `output_limit` is per choice, None where none is to be set.

    `overridden`: the facts are those of a body that a rule has changed, so that the client's own is never right.
    """
    rewrite = Rewrite(
        model=target.model if target.model != facts.model else None,
        output_limit=output_limit,
        include_usage=facts.stream and not facts.wants_usage,
        provider=target.account.provider,
    )
    body = dialect.rewrite(facts, rewrite)
    if body is None and overridden and not isinstance(facts.document, FormDocument):
        body = jsonbody.dump(facts.document)
    named = path if target.model == facts.model else dialect.path_for(path, target.model)
    return Outgoing(upstream_path(target.account, named), body)
