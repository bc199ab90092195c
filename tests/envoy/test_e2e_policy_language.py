"""Documents as TrueFoundry's gateway has them, and our additions, doing on the real stack what they promise."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from ext_proc.identity.keys import KeyHash
from tests.e2e_kit import GPT_4O_MINI, POLICIES, Gateway, cost, eventually
from tests.identity_kit import a_key
from tests.scrape_kit import parsed, value
from tests.stack_fixture import RunningStack, running_stack

pytestmark = pytest.mark.envoy

DOLLAR = 1_000_000_000
FREE, PRO = a_key("free-caller"), a_key("pro-caller")

# As people have them: V1 budgets with an exception above the rule for everyone, templated ids, rate limits by model.
VERBATIM = """
name: budget-limiting-config
type: gateway-budget-config
rules:
  - id: project-{metadata.project_id}-daily
    when:
      metadata:
        case: templated
    limit_to: 0.001
    unit: cost_per_day
  - id: exception
    when:
      subjects:
        - user:ann
      metadata:
        case: first-match
    limit_to: 5
    unit: cost_per_day
  - id: everyone
    when:
      metadata:
        case: first-match
    limit_to: 0.001
    unit: cost_per_day
  - id: only-counting
    when:
      metadata:
        case: audit
    limit_to: 0.000001
    unit: cost_per_month
    budget_applies_per: ['user']
    audit_mode: true
    alerts:
      thresholds: [75, 90, 95, 100]
      notification_target:
        - type: email
          notification_channel: platform-mail
          to_emails: ["platform@example.com"]
---
name: ratelimiting-config
type: gateway-rate-limiting-config
rules:
  - id: '{user}-gpt-per-day'
    when:
      subjects: ['user:bob', 'team:backend']
      models: ['openai-main/gpt-4o-mini']
      metadata:
        case: rate
    limit_to: 2
    unit: requests_per_day
  - id: everyone-per-minute
    when:
      metadata:
        case: rate
    limit_to: 1000
    unit: requests_per_minute
"""

OURS = """
name: more-rates
type: gateway-rate-limiting-config
rules:
  - {id: at-once, when: {metadata: {case: concurrent}}, limit_to: 2, unit: concurrent_requests}
  - {id: tokens, when: {metadata: {case: tokens}}, limit_to: 1000, unit: tokens_per_minute}
---
name: level-organisation
type: gateway-budget-config
rules: [{id: organisation, when: {metadata: {case: hierarchy}}, limit_to: 0.003, unit: cost_per_month}]
---
name: level-team
type: gateway-budget-config
rules:
  - {id: team-level, when: {metadata: {case: hierarchy}}, limit_to: 0.002, unit: cost_per_week,
     budget_applies_per: [metadata.squad]}
---
name: level-user
type: gateway-budget-config
rules:
  - {id: user-level, when: {metadata: {case: hierarchy}}, limit_to: 0.001, unit: cost_per_day,
     budget_applies_per: [user]}
---
name: plans
type: gateway-budget-config
rules:
  - id: by-plan
    when: {metadata: {case: plans}}
    limit_to: {by: tenant.plan, values: {free: 0.0001, pro: 10}, default: 0.0001}
    unit: cost_per_day
    budget_applies_per: [tenant]
---
name: latching
type: gateway-budget-config
rules: [{id: shuts, when: {metadata: {case: latch}}, limit_to: 0.001, unit: cost_per_day, on_exhausted: latch}]
---
name: v2-per-user
type: tenant-budget-config
mode: enforce
limits: {cost_per_day: 0.001}
applies_to: {type: per-user, overrides: [{users: [vip], limits: {cost_per_day: 5}}]}
when: {metadata: {case: {in: [v2]}}}
"""

IDENTITY = f"""
name: identity
type: gateway-identity-config
anonymous: allow
keys:
  - {{id: free-caller, hash: '{KeyHash.plain(FREE)}', tenant: small, virtual_account: f}}
  - {{id: pro-caller, hash: '{KeyHash.plain(PRO)}', tenant: large, virtual_account: p}}
tenants: [{{id: small, plan: free}}, {{id: large, plan: pro}}]
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """One stack with all of it; each test has the rules of its own `case`."""
    documents = {**POLICIES, "verbatim.yaml": VERBATIM, "ours.yaml": OURS, "identity.yaml": IDENTITY}
    with running_stack(tmp_path_factory.mktemp("language"), documents) as stack:
        yield stack


@pytest.fixture
def gateway(running: RunningStack, request: pytest.FixtureRequest) -> Iterator[Gateway]:
    """A client whose cost center is the test's name."""
    gateway = Gateway(running, request.node.name)
    yield gateway
    gateway.close()


def spend(gateway: Gateway, tokens: int) -> httpx.Response:
    """A request that is charged for so many output tokens, and asks for as many."""
    return gateway.chat(max_tokens=tokens, usage={"input": 0, "output": tokens})


def spent(gateway: Gateway, rule: str) -> dict[str, int]:
    """What each account of a rule has spent, by its (expanded) id, nothing held."""
    accounts = gateway.admin.get("/v1/budgets", params={"rule": rule}).json()["accounts"]
    assert all(account["held"] == 0 for account in accounts)
    return {account["rule"]: account["spent"] for account in accounts}


def rules_of(answer: httpx.Response) -> dict[str, list[str]]:
    """Matched and deciding rules of this module's documents."""
    rules: dict[str, list[str]] = json.loads(answer.headers["x-tfy-applied-rules"])
    return {kind: [rule for rule in ids if rule != "per-cost-center"] for kind, ids in rules.items()}


def refused_by(answer: httpx.Response) -> str:
    """The rule that refused with 429."""
    assert answer.status_code == 429, answer.text
    rule: str = answer.json()["context"]["rule"]
    return rule


def test_the_first_match_decides_while_all_track(gateway: Gateway) -> None:
    """Ann's exception lets her past the rule for everyone, which counts her all the same and refuses the others."""
    gateway.tags |= {"case": "first-match", "user": "ann"}
    charged = cost(GPT_4O_MINI, output=3_000)  # $0.0018: more than everyone's $0.001

    first, second = spend(gateway, 3_000), spend(gateway, 3_000)
    gateway.resolved(2)
    gateway.tags["user"] = "bob"
    other = spend(gateway, 10)

    assert rules_of(first) == {"matched": ["exception", "everyone"], "deciding": ["exception"]}
    assert second.status_code == 200
    assert spent(gateway, "everyone") == {"everyone": 2 * charged}
    assert spent(gateway, "exception") == {"exception": 2 * charged}
    assert refused_by(other) == "everyone"


def test_audit_never_blocks_and_says_what_would_have_been_refused(gateway: Gateway) -> None:
    """The request passes; verdict header, metric and journal name the rule that would have refused it."""
    gateway.tags |= {"case": "audit", "user": "ann"}

    answer = spend(gateway, 100)

    (entry,) = gateway.resolved()
    metrics = parsed(gateway.admin.get("/metrics").content)
    assert answer.status_code == 200
    assert answer.headers["x-tollgate-verdict"] == "pass; would_refuse=only-counting"
    assert entry["would_refuse"] == ["only-counting"]
    assert value(metrics, "tollgate_would_refuse_total", rule="only-counting") == 1
    assert spent(gateway, "only-counting") == {"only-counting": cost(GPT_4O_MINI, output=100)}


def test_a_templated_id_makes_a_budget_for_each_value(gateway: Gateway) -> None:
    """A project that is exhausted refuses under its own name; its neighbour has all of its own budget."""
    gateway.tags |= {"case": "templated", "project_id": "apollo"}
    spend(gateway, 1_500)
    gateway.resolved()

    exhausted = spend(gateway, 1_500)
    gateway.tags["project_id"] = "gemini"
    neighbour = spend(gateway, 1_500)
    gateway.resolved(2)

    assert refused_by(exhausted) == "project-apollo-daily"
    assert exhausted.json()["detail"].startswith("Project id 'apollo' has ")
    assert neighbour.status_code == 200
    assert set(spent(gateway, "project-{metadata.project_id}-daily")) == {
        "project-apollo-daily",
        "project-gemini-daily",
    }


def test_any_exceeded_rate_rule_refuses_with_its_id(gateway: Gateway) -> None:
    """Rate rules all count; the one that is exceeded is named, its headers tell what is left, others are untouched."""
    gateway.tags |= {"case": "rate", "user": "bob"}

    first, second, third = (gateway.chat(max_tokens=5) for _ in range(3))
    gateway.tags["user"] = "carol"
    other = gateway.chat(max_tokens=5)

    assert rules_of(first)["deciding"] == ["bob-gpt-per-day", "everyone-per-minute"]
    assert [first.headers["x-ratelimit-remaining-requests"], second.headers["x-ratelimit-remaining-requests"]] == [
        "1",
        "0",
    ]
    assert refused_by(third) == "bob-gpt-per-day"
    assert third.json()["error"]["code"] == "rate_limited"
    assert int(third.headers["retry-after"]) > 0
    assert other.status_code == 200


def test_a_concurrency_limit_frees_a_place_when_a_request_ends(gateway: Gateway) -> None:
    """Two at once, the third is refused; when they have ended the next one passes."""
    gateway.tags["case"] = "concurrent"
    behavior = {"hold_open_until": "places"}
    with ThreadPoolExecutor(2) as two:
        held = [two.submit(gateway.chat, max_tokens=5, behavior=behavior, user=gateway.cost_center) for _ in range(2)]
        gateway.received(2)
        refused = gateway.chat(max_tokens=5)
        gateway.release("places")
    gateway.resolved(2)

    assert refused_by(refused) == "at-once"
    assert [answer.result().status_code for answer in held] == [200, 200]
    assert gateway.chat(max_tokens=5).status_code == 200


def test_a_token_limit_holds_an_estimate_and_settles_the_real_count(gateway: Gateway) -> None:
    """What was held and not used comes back; a request that alone exceeds the limit is told so for good."""
    gateway.tags["case"] = "tokens"

    first = gateway.chat(max_tokens=800, usage={"input": 10, "output": 20})
    gateway.resolved()
    second = gateway.chat(max_tokens=800, usage={"input": 10, "output": 700})
    gateway.resolved(2)
    exceeded = gateway.chat(max_tokens=800)
    never = gateway.chat(max_tokens=2_000)

    assert first.status_code == second.status_code == 200
    assert 0 < int(first.headers["x-ratelimit-remaining-tokens"]) < 200
    assert refused_by(exceeded) == "tokens"
    assert never.status_code == 400
    assert "more than rate limit 'tokens' of 1,000 tokens per minute ever allows" in never.json()["detail"]
    assert never.headers["x-should-retry"] == "false"
    assert "retry-after" not in never.headers


def test_a_hierarchy_is_one_document_per_level(gateway: Gateway) -> None:
    """A request must pass every level; each level refuses what is past its own cap, and all that do are named."""
    gateway.tags |= {"case": "hierarchy", "squad": "one"}
    refusals = []
    for number, (user, squad) in enumerate((("ann", "one"), ("bob", "one"), ("carol", "two")), start=1):
        gateway.tags |= {"user": user, "squad": squad}
        assert spend(gateway, 1_600).status_code == 200  # $0.00096 of the user's $0.001
        gateway.resolved(number)
        refusals.append(spend(gateway, 1_600))

    user_only, user_and_team, user_and_organisation = (answer.json()["context"] for answer in refusals)

    assert (user_only["rule"], user_only["also_exceeded"]) == ("user-level", [])
    assert {user_and_team["rule"], *user_and_team["also_exceeded"]} == {"team-level", "user-level"}
    assert {user_and_organisation["rule"], *user_and_organisation["also_exceeded"]} == {"organisation", "user-level"}
    assert gateway.account("per-cost-center")["spent"] == 3 * cost(GPT_4O_MINI, output=1_600)


def test_a_cap_follows_the_plan_of_the_tenant_s_record(gateway: Gateway) -> None:
    """The plan comes from the record that the key leads to; a tag of that name changes nothing."""
    gateway.tags |= {"case": "plans", "plan": "pro", "tenant_id": "large"}

    def ask(key: str) -> httpx.Response:
        headers = {**gateway.headers({"input": 0, "output": 300}), "authorization": f"Bearer {key}"}
        body = {"model": "gpt-4o-mini", "max_tokens": 300, "messages": [{"role": "user", "content": "hi"}]}
        return gateway.http.post("/v1/chat/completions", json=body, headers=headers)

    small, large = ask(FREE), ask(PRO)

    assert refused_by(small) == "by-plan"
    assert small.json()["context"]["cap"] == "$0.0001"
    assert small.json()["context"]["tenant"] == "small"
    assert large.status_code == 200


def test_a_latched_budget_stays_shut_until_it_is_resumed(gateway: Gateway) -> None:
    """Exhausted, it refuses even after its cap would allow more; `tollgate budgets resume` opens it."""
    gateway.tags["case"] = "latch"
    gateway.chat(max_tokens=10, usage={"input": 0, "output": 1_700})  # past the cap
    gateway.resolved()
    shut = gateway.chat(max_tokens=10)
    tollgate(gateway, "reset", "shuts", "--note", "loop fixed")
    still_shut = gateway.chat(max_tokens=10)
    resumed = tollgate(gateway, "resume", "shuts", "--note", "loop fixed")

    assert refused_by(shut) == refused_by(still_shut) == "shuts"
    assert "stays shut until it is resumed by hand" in still_shut.json()["detail"]
    assert json.loads(resumed) == {"rule": "shuts", "bucket": {}}
    assert gateway.chat(max_tokens=10).status_code == 200
    events = [entry.get("event") for entry in gateway.admin.get("/v1/journal").json()["entries"]]
    assert [event for event in events if event] == ["resumed", "reset"]


def tollgate(gateway: Gateway, *words: str) -> str:
    """`tollgate budgets …`; what it prints."""
    command = [sys.executable, "-m", "ext_proc", "budgets", *words, "--admin", gateway.stack.admin]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_a_v2_document_gives_each_user_a_budget_and_some_another(gateway: Gateway) -> None:
    """`tenant-budget-config` per user: an override replaces the base limit of its users."""
    gateway.tags["case"] = "v2"
    answers: dict[str, list[Any]] = {}
    for user in ("ann", "vip"):
        gateway.tags["user"] = user
        for _ in range(2):
            answers.setdefault(user, []).append(spend(gateway, 1_500))
            eventually(lambda: True if gateway.account("per-cost-center")["held"] == 0 else None, "all settled")

    assert [answer.status_code for answer in answers["ann"]] == [200, 429]
    assert [answer.status_code for answer in answers["vip"]] == [200, 200]
