"""In which order the targets of a virtual model are tried. Pure: what is random comes in as a number."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ext_proc.policy.documents.routing import IdentifierSource
from ext_proc.policy.snapshot import MatchFacts
from ext_proc.routing.health import Health
from ext_proc.routing.virtual_models import Kind, Member, VirtualModel

DRAW_BITS: Final = 64
_AS_FAST: Final = 1.2
"""Targets within this factor of the fastest count as equally fast, so that they share the traffic."""


@dataclass(frozen=True, slots=True)
class Session:
    """What makes requests one session, and for how long it stays on its target."""

    values: tuple[str, ...]
    seconds: int

    def draw(self, rule_id: str, now_s: int) -> int:
        """The same number for all requests of the session, another one after `seconds`.

        Nothing is stored: the number is a digest. Each session's time ends at a moment of its own, so that sessions do
        not all move at once.
        """
        name = "\x1f".join((rule_id, *self.values))
        turn = (now_s + _digest(name) % self.seconds) // self.seconds
        return _digest(f"{name}\x1f{turn}")


def draw_of(hold_id: str) -> int:
    """A hold id's own randomness, as a number of DRAW_BITS bits."""
    return int(hold_id[12:28], 16)


def session_of(rule: VirtualModel, facts: MatchFacts) -> Session | None:
    """What keeps a request on its target; None where the rule keeps none, or the request names no session."""
    if rule.sticky_seconds is None:
        return None
    values = tuple(
        (facts.headers.get(key.lower()) if source is IdentifierSource.HEADERS else facts.caller.tags.get(key)) or ""
        for source, key in rule.session_keys
    )
    return Session(values, rule.sticky_seconds) if any(values) else None


def order(rule: VirtualModel, facts: MatchFacts, health: Health, draw: int, now_s: int) -> tuple[Member, ...]:
    """The members that may serve a request, first choice first, unhealthy ones last; who may not follow only leads."""
    tags = facts.caller.tags
    allowed = [member for member in rule.members if all(tags.get(key) == value for key, value in member.tags)]
    session = session_of(rule, facts)
    number = draw if session is None else session.draw(rule.id, now_s)
    unhealthy = {member.name for member in allowed if member.is_unhealthy(health)}
    healthy = [member for member in allowed if member.name not in unhealthy]
    ill = [member for member in allowed if member.name in unhealthy]
    ordered = [*_by_kind(rule, healthy, health, number), *_by_kind(rule, ill, health, number)]
    return (*ordered[:1], *(member for member in ordered[1:] if member.may_follow))


def _by_kind(rule: VirtualModel, members: Sequence[Member], health: Health, number: int) -> list[Member]:
    match rule.kind:
        case Kind.WEIGHT:
            return _weighted(members, number)
        case Kind.LATENCY:
            return _fastest(members, health, number)
        case Kind.PRIORITY:
            return sorted(members, key=lambda member: member.priority)


def _weighted(members: Sequence[Member], number: int) -> list[Member]:
    """The first by its share of the weights, the others from the heaviest down."""
    total = sum(member.weight for member in members)
    rest = sorted(members, key=lambda member: -member.weight)
    point = number * total >> DRAW_BITS
    for member in members:
        if point < member.weight:
            return [member, *(other for other in rest if other is not member)]
        point -= member.weight
    return rest


def _fastest(members: Sequence[Member], health: Health, number: int) -> list[Member]:
    """Those not measured yet, so that they are; then the fast ones in drawn order; then the others by speed."""
    speeds = {member.name: _speed(member, health) for member in members}
    measured = [speed for speed in speeds.values() if speed is not None]
    fast_enough = min(measured) * _AS_FAST if measured else 0.0

    def key(member: Member) -> tuple[int, float]:
        speed = speeds[member.name]
        if speed is None:
            return 0, float(_digest(f"{number}\x1f{member.name}"))
        return (1, float(_digest(f"{number}\x1f{member.name}"))) if speed <= fast_enough else (2, speed)

    return sorted(members, key=key)


def _speed(member: Member, health: Health) -> float | None:
    counts = health.counts(member.name)
    per_token = counts.time_per_output_token_ms
    return per_token if per_token is not None else counts.mean_ttft_ms


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "big")
