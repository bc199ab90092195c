"""The policy set of the soak: accounts of five providers at known prices, budgets that never end, and some that do."""

from __future__ import annotations

from typing import Any

from bench.soak.traffic import CHEAP, DEAR, HASTY, POOR, RATES, TIGHT

EVERYTHING, PER_CENTER, TOKENS, REQUESTS = "everything", "per-center", "all-tokens", "all-requests"
DEAD = "openai-dead"

_LARGE = 1_000_000
_PROVIDERS = ("openai", "anthropic", "gemini", "bedrock", "cohere")


def accounts() -> tuple[str, ...]:
    """The provider accounts that answer."""
    return tuple(f"{provider}-main" for provider in _PROVIDERS)


def documents(nowhere: str) -> list[dict[str, Any]]:
    """The documents. `nowhere`: a URL where nobody listens."""
    return [
        {"name": "providers", "type": "gateway-provider-config", "accounts": list(_accounts(nowhere))},
        {
            "name": "tags",
            "type": "gateway-tagging-config",
            "rules": [{"id": "tagged", "when": {}, "required": ["cost_center"], "mode": "enforce"}],
        },
        _budgets("everything", [_rule(EVERYTHING, {}, _LARGE, "cost_per_lifetime")]),
        _budgets("tokens", [_rule(TOKENS, {}, 10**15, "tokens_per_lifetime")]),
        _budgets("requests", [_rule(REQUESTS, {}, 10**15, "requests_per_lifetime")]),
        _budgets("hours", [_rule("per-hour", {}, _LARGE, "cost_per_hour")]),
        _budgets(
            "centers",
            [
                _rule("poor", {"metadata": {"cost_center": POOR}}, 0.000001, "cost_per_lifetime"),
                {
                    **_rule("tight", {"metadata": {"cost_center": TIGHT}}, 10, "cost_per_lifetime"),
                    "constrained": {"at": 1, "action": "downgrade"},
                },
                {
                    **_rule(PER_CENTER, {}, _LARGE, "cost_per_lifetime"),
                    "budget_applies_per": ["metadata.cost_center"],
                    "on_missing_key": "bucket",
                },
            ],
        ),
        {
            "name": "rates",
            "type": "gateway-rate-limiting-config",
            "rules": [_rule("hasty", {"metadata": {"cost_center": HASTY}}, 1, "requests_per_second")],
        },
        {
            "name": "routing",
            "type": "gateway-load-balancing-config",
            "downgrades": [
                {"when": {}, "swap": {f"{name}-main/{DEAR}": f"{name}-main/{CHEAP}" for name in _PROVIDERS[:2]}}
            ],
            "rules": [
                {
                    "id": "chain",
                    "type": "priority-based-routing",
                    "when": {"models": ["soak-chain"]},
                    "load_balance_targets": [
                        {"target": f"{DEAD}/{DEAR}", "priority": 0},
                        {"target": f"openai-main/{DEAR}", "priority": 1},
                    ],
                }
            ],
        },
    ]


def _accounts(nowhere: str) -> list[dict[str, Any]]:
    models = [{"name": name, "cost": {"per_1000_tokens": _prices(rates)}} for name, rates in RATES.items()]
    found = [{"name": f"{one}-main", "provider": one, "endpoint": nowhere, "models": models} for one in _PROVIDERS]
    return [*found, {"name": DEAD, "provider": "openai", "endpoint": nowhere, "models": models}]


def _prices(rates: dict[str, int]) -> dict[str, float]:
    """Nano-dollars a token → dollars per 1,000."""
    return {name: rate / 1_000_000 for name, rate in rates.items()}


def _budgets(name: str, rules: list[dict[str, Any]]) -> dict[str, Any]:
    return {"name": name, "type": "gateway-budget-config", "rules": rules}


def _rule(name: str, when: dict[str, Any], limit: float, unit: str) -> dict[str, Any]:
    return {"id": name, "when": when, "limit_to": limit, "unit": unit}
