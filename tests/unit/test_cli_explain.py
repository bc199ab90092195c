"""`tollgate explain`: what a person types, and what they can paste into a ticket."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

POLICIES = """
name: cost-centers
type: gateway-budget-config
rules:
  - {id: search-weekly, when: {metadata: {cost_center: search}}, limit_to: 500, unit: cost_per_week}
  - {id: everyone, when: {}, limit_to: 50, unit: cost_per_week, budget_applies_per: [metadata.cost_center]}
---
name: workflows
type: gateway-budget-config
rules:
  - {id: per-workflow, when: {}, limit_to: 25, unit: cost_per_lifetime, budget_applies_per: [metadata.workflow_id]}
---
name: rates
type: gateway-rate-limiting-config
rules:
  - {id: few-images, when: {models: [openai-main/gpt-image-1]}, limit_to: 3, unit: requests_per_minute}
  - {id: per-user, when: {}, limit_to: 300, unit: requests_per_minute, rate_limit_applies_per: [user]}
---
name: tags
type: gateway-tagging-config
rules:
  - {id: tagged, when: {}, required: [cost_center], mode: enforce}
"""
BODY = '{"model": "gpt-4o-mini", "max_tokens": 100, "messages": [{"role": "user", "content": "Tell me a story."}]}'
TAGGED = 'x-tfy-metadata: {"cost_center": "search", "user": "ann"}'

EXPECTED = """\
POST /v1/chat/completions, 106 bytes, at TIME
policy set HASH, judged against empty accounts

caller  user ann (unverified: only the tag says so)
tags    cost_center=search user=ann
model   gpt-4o-mini → openai-main/gpt-4o-mini (openai-chat)

rules that match: 4 of 6
  decides                        search-weekly  budget cost-centers  cap $500.00, cost_per_week
  tracks, search-weekly decides  everyone       budget cost-centers  cap $50.00, cost_per_week
  decides                        per-user       rate-limiting rates  cap 300 requests, requests_per_minute
  applies                        tagged         tagging
rules that do not:
  per-workflow  budget workflows     the request has no metadata.workflow_id, and the rule skips such requests
  few-images    rate-limiting rates  model is 'openai-main/gpt-4o-mini', the rule wants 'openai-main/gpt-image-1'

hold: openai-main/gpt-4o-mini, priced by genai-prices
  input   at most 24 tokens: 20 bytes of prompt ÷ 2.5 bytes per token + 16 for messages and tools
  output  at most 100 tokens: 100, the request's own limit
  rates   $0.15 per million input tokens, $0.60 output: the dearest it can be billed at
  search-weekly  $0.0000636 = $0.0000036 for input + $0.00006 for output
  everyone       $0.0000636 = $0.0000036 for input + $0.00006 for output
  per-user       1 request
  → taken

verdict: pass
  served by openai-main/gpt-4o-mini, at most 100 output tokens
"""


@pytest.fixture
def policies(tmp_path: Path) -> Path:
    """The policy set."""
    directory = tmp_path / "policies"
    directory.mkdir()
    (directory / "all.yaml").write_text(POLICIES)
    return directory


def explain(policies: Path, *options: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    command = [sys.executable, "-m", "ext_proc", "explain", "--policies", str(policies), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False, input=stdin)


def as_json(policies: Path, *options: str, stdin: str = "") -> dict[str, Any]:
    """Its `--json`."""
    done = explain(policies, "--json", *options, stdin=stdin)
    assert (done.returncode, done.stderr) == (0, "")
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def test_the_text_says_who_what_how_much_and_why(policies: Path) -> None:
    """The whole text of a small set: caller, rules with reasons, the hold with its arithmetic, the verdict."""
    done = explain(policies, "--header", TAGGED, "--body", BODY)

    assert done.returncode == 0, done.stderr
    text = re.sub(r"at \d{4}-.*Z", "at TIME", re.sub(r"policy set \w+", "policy set HASH", done.stdout))
    text = re.sub(r"genai-prices-[\d.]+", "genai-prices", text)
    assert text == EXPECTED


def test_a_request_file_is_read_as_http_writes_it(policies: Path) -> None:
    """Request line, headers and body come from one file; options say otherwise."""
    request = f"POST /v1/chat/completions HTTP/1.1\r\nHost: llm\r\n{TAGGED}\r\n\r\n{BODY}"

    whole = as_json(policies, "--request", "-", stdin=request)
    changed = as_json(policies, "--request", "-", "--path", "/v1/nothing", stdin=request.replace("\r\n", "\n"))

    assert whole["caller"]["tags"] == {"cost_center": "search", "user": "ann"}
    assert whole["verdict"]["verdict"] == "pass"
    assert whole["request"]["body_bytes"] == len(BODY)
    assert changed["verdict"]["type"] == "unknown_path"


def test_a_body_comes_from_a_file_or_stdin(policies: Path, tmp_path: Path) -> None:
    """`@file` and `-` hold what could be written out."""
    (tmp_path / "body.json").write_text(BODY)

    for document in (
        as_json(policies, "--header", TAGGED, "--body", BODY),
        as_json(policies, "--header", TAGGED, "--body", f"@{tmp_path / 'body.json'}"),
        as_json(policies, "--header", TAGGED, "--body", "-", stdin=BODY),
    ):
        assert document["ways"][0]["output"] == {"least": 100, "most": 100, "tokens": 100, "learned": False}
        assert document["ways"][0]["asks"][0]["amount"] == 60_000 + document["ways"][0]["asks"][0]["fixed"]


def test_a_refused_request_still_shows_its_rules(policies: Path) -> None:
    """An untagged request is refused before any hold; who it is and what would match is told all the same."""
    document = as_json(policies, "--body", BODY)

    assert document["verdict"]["status"] == 400
    assert document["verdict"]["rule"] == "tagged"
    assert [rule["rule"] for rule in document["rules"] if rule["matches"]] == ["everyone", "per-user", "tagged"]
    assert document["ways"] == []


def test_many_rules_that_do_not_match_are_cut_short(policies: Path) -> None:
    """A large set prints twenty of them and says how many more there are; `--all` prints them all."""
    rules = "\n".join(
        f"  - {{id: cc-{number}, when: {{metadata: {{cost_center: x{number}}}}}, limit_to: 1, unit: cost_per_day}}"
        for number in range(100)
    )
    (policies / "many.yaml").write_text(f"name: many\ntype: gateway-budget-config\nrules:\n{rules}\n")

    short = explain(policies, "--header", TAGGED, "--body", BODY).stdout
    whole = explain(policies, "--all", "--header", TAGGED, "--body", BODY).stdout

    assert "… and 82 more" in short
    assert "cc-99 " not in short
    assert "cc-99 " in whole


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--header", "nonsense"], "'nonsense' is no header; write 'name: value'"),
        (["--claims", "[1]"], "--claims: not a JSON object"),
        (["--claims", "{"], "--claims: not JSON"),
        (["--body", "@/nowhere/at-all"], "--body /nowhere/at-all: No such file or directory"),
        (["--request", "-"], "--request: '' is no request line"),
        (["--redis", "http://x"], "--redis http://x: "),
    ],
)
def test_what_is_typed_wrong_is_a_usage_error(policies: Path, options: list[str], problem: str) -> None:
    """Exit code 2 and one line that says what is wrong."""
    done = explain(policies, *options)

    assert done.returncode == 2
    assert problem in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_redis_that_is_not_there_is_an_error(policies: Path) -> None:
    """Exit code 1: an explanation against other balances than those asked for would mislead."""
    done = explain(policies, "--redis", "redis://127.0.0.1:9/0", "--body", BODY)

    assert (done.returncode, done.stdout) == (1, "")
    assert "does not answer" in done.stderr
