"""Whether a stream that runs on past its hold goes on or is cut, where the rules of its request want that.

Counted is what has passed. While that stays within the hold nobody is asked. Beyond it the hold is extended in steps,
which the ledger grants as long as the account has room, whoever else draws on it. What it does not grant ends the
stream.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from ext_proc.dialects.interface import Dialect, RequestFacts
from ext_proc.policy.terms import MatchedRule

STEP_TOKENS: Final = 256
"""How much more output is asked for at a time: at 60 tokens a second one call to Redis every four seconds."""

Bucket = tuple[tuple[str, str | None], ...]


@dataclass(frozen=True, slots=True)
class Cut:
    """Who may cut a stream: rules as written, each with its bucket. Their caps are looked up when it comes to that.

    `plan` is that of the caller's tenant, which caps may depend on. `choices`: of the answer, each of which has an end.
    """

    rules: tuple[tuple[str, Bucket], ...]
    plan: str | None
    choices: int

    def encode(self) -> list[object]:
        """The part of a ticket."""
        return [self.rules, self.plan, self.choices]

    @classmethod
    def decode(cls, part: list[object]) -> Cut:
        """Read `encode`'s form. Raises ValueError where it is not one."""
        match part:
            case [list() as rules, str() | None as plan, int() as choices]:
                named = tuple((rule, tuple((key, value) for key, value in bucket)) for rule, bucket in rules)
                return cls(named, plan, choices)
        raise ValueError(f"not what may cut a stream: {part!r}")


def cut_of(matched: Iterable[MatchedRule], dialect: Dialect, facts: RequestFacts, plan: str | None) -> Cut | None:
    """What may cut the answer to this request; None where nothing may."""
    if not facts.stream or not dialect.can_end_streams:
        return None
    rules = tuple(
        (rule.account.rule_id, rule.account.bucket) for rule in matched if rule.deciding and rule.cuts_streams
    )
    return Cut(rules, plan, facts.choices) if rules else None


def comment(rules: tuple[str, ...]) -> bytes:
    """The line of an event stream that tells people why it ended; SDKs skip it."""
    named = "".join(character if character.isprintable() else "?" for character in ", ".join(rules))
    return f": tollgate: cut; rule={named}; the budget is exhausted\n\n".encode()
