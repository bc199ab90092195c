"""What a newcomer reads: which accounts the mock provider answers for, and three requests to try. Pure."""

from __future__ import annotations

from ext_proc.identity.caller import Caller
from ext_proc.policy.snapshot import MatchFacts, Snapshot
from ext_proc.supervisor.providers import Routing

_DEMO_RULE = "demo-daily"  # of the policy set that ships: a budget that one request all but empties
_TAGGED = '-H \'x-tfy-metadata: {"cost_center": "search"}\''
_DEMO = '-H \'x-tfy-metadata: {"cost_center": "demo"}\''
_SHORT = '{"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Say hello."}]}'
# gpt-4 costs enough for one answer of 140 tokens to leave too little of one cent for a second.
_LONG = '{"model": "gpt-4", "max_tokens": 140, "messages": [{"role": "user", "content": "Tell a story."}]}'


def mock_notice(routing: Routing, snapshot: Snapshot) -> str:
    """Which accounts nobody but the mock provider would answer for, and how to change that; '' for none."""
    if not routing.mocked:
        return ""
    variables = sorted({snapshot.accounts[name].credential_env or "" for name in routing.mocked} - {""})
    cure = f"set {' or '.join(variables)}" if variables else "give them a credential"
    return f"the built-in mock provider answers for {', '.join(routing.mocked)}: {cure} for the real one"


def three_requests(snapshot: Snapshot, listen: str) -> str:
    """One request that passes, one that is not tagged, and two at once of which the second finds the demo budget spent.

    '' for a policy set in which they would not end so: the one that ships was changed or is not used.
    """
    demo = MatchFacts(Caller(tags={"cost_center": "demo"}), "gpt-4", "openai-main/gpt-4")
    untagged = MatchFacts(Caller(), "gpt-4o-mini", "openai-main/gpt-4o-mini")
    has_demo_budget = any(rule.account.rule_id == _DEMO_RULE and rule.deciding for rule in snapshot.match(demo))
    if not has_demo_budget or not any(finding.enforced for finding in snapshot.missing_tags(untagged)):
        return ""
    url = f"{listen}/v1/chat/completions"
    # -w: the body of an answer does not end with a line feed.
    post = "curl -sS -w '\\n%{http_code}\\n' -H 'content-type: application/json'"
    return f"""
Three requests to try:

# passes, and is charged to the cost center search
{post} {_TAGGED} -d '{_SHORT}' {url}

# is refused with 400: it does not say who pays
{post} -d '{_SHORT}' {url}

# twice the same: the first empties the budget of the cost center demo, the second gets the 429
{post} {_DEMO} -H 'x-mock-usage: {{"output": 140}}' -d '{_LONG}' {url} {url}
"""
