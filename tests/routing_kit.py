"""Virtual models in a line, for the end-to-end tests of routing."""

from __future__ import annotations

import json
from typing import Any

import httpx

ROUTED_USAGE = {"input": 100, "output": 50}


def chain(name: str, *targets: dict[str, Any], kind: str = "priority-based-routing", **rule: Any) -> dict[str, Any]:
    """A virtual model over these targets, in this order."""
    placed = [{"priority": index, **target} for index, target in enumerate(targets)]
    return {"id": name, "type": kind, "when": {"models": [name]}, "load_balance_targets": placed, **rule}


def behaving(**behavior: Any) -> dict[str, Any]:
    """Part of a target whose provider behaves so."""
    return {"headers_override": {"set": {"x-mock-behavior": json.dumps(behavior)}}}


def served(answer: httpx.Response) -> str:
    """Who served a request that passed."""
    assert answer.status_code == 200, answer.text
    return answer.headers["x-tfy-resolved-model"]
