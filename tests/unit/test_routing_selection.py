"""In which order the targets of a virtual model are tried."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from ext_proc.identity.caller import Caller
from ext_proc.policy.documents.routing import IdentifierSource
from ext_proc.policy.snapshot import MatchFacts
from ext_proc.routing.chains import ORDERS_MAX, Chains, attempts, depth
from ext_proc.routing.health import Counts, Health
from ext_proc.routing.selection import DRAW_BITS, order
from ext_proc.routing.virtual_models import Kind, Member, VirtualModel, VirtualModels

A, B, C = (Member(name=f"{account}/m", weight=weight) for account, weight in (("a", 70), ("b", 20), ("c", 10)))
FACTS = MatchFacts(caller=Caller(tags={"conversation": "one", "region": "eu"}), requested_model="chat", target="chat")
HEALTHY = Health()


def rule(kind: Kind, *members: Member, sticky_seconds: int | None = None) -> VirtualModel:
    """A rule that keeps conversations together, if it keeps any."""
    keys = ((IdentifierSource.METADATA, "conversation"),)
    return VirtualModel("chat", (), kind, members, sticky_seconds, keys)


def names(members: tuple[Member, ...]) -> list[str]:
    """The accounts, in order."""
    return [member.name[0] for member in members]


def failing(*accounts: str, count: int = 2) -> Health:
    """These targets have failed so often within the last minute."""
    return Health({99: {f"{account}/m": Counts(attempts=count, failures=count) for account in accounts}}, now_s=1_000)


def test_weights_are_the_shares_of_the_first_place() -> None:
    """Over evenly spread draws each target leads as often as its weight says."""
    draws = [((2 * index + 1) << DRAW_BITS) // 200 for index in range(100)]
    led = Counter(names(order(rule(Kind.WEIGHT, A, B, C), FACTS, HEALTHY, draw, 0))[0] for draw in draws)
    assert led == {"a": 70, "b": 20, "c": 10}


def test_priority_decides_and_the_unhealthy_go_to_the_end() -> None:
    """Two failures within two minutes move a target behind every healthy one; it recovers as they pass."""
    model = rule(Kind.PRIORITY, replace(A, priority=0), replace(B, priority=1), replace(C, priority=2))
    assert names(order(model, FACTS, HEALTHY, 0, 0)) == ["a", "b", "c"]
    assert names(order(model, FACTS, failing("a"), 0, 0)) == ["b", "c", "a"]
    assert names(order(model, FACTS, failing("a", count=1), 0, 0)) == ["a", "b", "c"]
    later = replace(failing("a"), now_s=1_200)
    assert names(order(model, FACTS, later, 0, 0)) == ["a", "b", "c"]


def test_latency_prefers_the_unmeasured_then_the_fast() -> None:
    """What is not measured yet is, then time per output token decides."""
    slow = Counts(attempts=9, ttft_samples=9, ttft_ms=900, output_us=9_000_000, output_tokens=100)
    fast = replace(slow, output_us=1_000_000)
    health = Health({99: {"a/m": slow, "b/m": fast}}, now_s=1_000)
    assert names(order(rule(Kind.LATENCY, A, B, C), FACTS, health, 0, 0)) == ["c", "b", "a"]


def test_a_session_stays_on_its_target_until_its_time_is_over() -> None:
    """Whatever is drawn, one conversation keeps its target; other conversations spread by weight."""
    model = rule(Kind.WEIGHT, A, B, C, sticky_seconds=3_600)
    draws = [(index << DRAW_BITS) // 20 for index in range(20)]
    assert len({order(model, FACTS, HEALTHY, draw, 1_000)[0].name for draw in draws}) == 1
    led = Counter(
        order(model, replace(FACTS, caller=Caller(tags={"conversation": str(index)})), HEALTHY, 0, 0)[0].name
        for index in range(2_000)
    )
    assert 1_200 < led["a/m"] < 1_600
    turns = {order(model, FACTS, HEALTHY, 0, hours * 3_600)[0].name for hours in range(200)}
    assert turns == {"a/m", "b/m", "c/m"}


def test_a_target_only_serves_requests_with_its_tags() -> None:
    """`metadata_match` leaves a target out for others."""
    model = rule(Kind.PRIORITY, replace(A, tags=(("region", "us"),)), replace(B, tags=(("region", "eu"),)))
    assert names(order(model, FACTS, HEALTHY, 0, 0)) == ["b"]


def test_who_must_not_follow_only_leads() -> None:
    """`fallback_candidate: false` keeps a target out of every place but the first."""
    model = rule(Kind.PRIORITY, replace(A, priority=1, may_follow=False), replace(B, priority=0))
    assert names(order(model, FACTS, HEALTHY, 0, 0)) == ["b"]
    assert names(order(model, FACTS, failing("b"), 0, 0)) == ["a", "b"]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 15, 16, 64])
def test_every_order_that_can_be_chosen_has_a_cluster(count: int) -> None:
    """Whatever order comes out, its attempts are the beginning of a configured sequence, and there are not too many."""
    members = tuple(Member(name=f"acc{index}/m", tries=1 + index % 2) for index in range(count))
    accounts = {member.name.partition("/")[0]: None for member in members}
    chains = Chains.of(VirtualModels([rule(Kind.WEIGHT, *members)], frozenset()), accounts)
    assert len(chains.clusters) <= 2 * ORDERS_MAX
    assert depth(count) <= count
    for turn in range(count):
        ordered = (*members[turn:], *members[:turn])
        for left_out in range(count):
            for tries_max in (1, 8):
                tried = attempts(ordered[: count - left_out], count, tries_max)
                sequence = tuple(member.name.partition("/")[0] for member in tried)
                assert len(sequence) == 1 or chains.cluster(sequence) is not None
