"""Providers come, move and go while requests run: nobody notices but the books."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, Self

import httpx
import pytest
import yaml

from tests.e2e_kit import GPT_4O_MINI, POLICIES, Gateway, chat_body, cost, eventually
from tests.stack_fixture import running_stack

pytestmark = pytest.mark.envoy

USAGE = {"input": 100, "output": 50}

BUDGET = POLICIES["policy.yaml"] + "    on_store_failure: allow\n"
"""A machine that runs other things too may keep Redis waiting: that is not what is shown here."""


def policies(mock: str, accounts: list[str], *, input_price: float = 0.001) -> str:
    """Provider accounts at the mock provider, and a virtual model `chat` over all of them, last one first."""
    providers = {
        "name": "providers",
        "type": "gateway-provider-config",
        "accounts": [{"name": "openai-main", "provider": "openai"}]
        + [
            {
                "name": name,
                "provider": "openai-compatible",
                "endpoint": mock,
                "models": [{"name": "own", "cost": {"per_1000_tokens": {"input": input_price, "output": 0.002}}}],
            }
            for name in accounts
        ],
    }
    targets = [f"{name}/own" for name in reversed(accounts)] + ["openai-main/gpt-4o-mini"]
    routing = {
        "name": "routing",
        "type": "gateway-load-balancing-config",
        "rules": [
            {
                "id": "chat",
                "type": "priority-based-routing",
                "when": {"models": ["chat"]},
                "load_balance_targets": [{"target": target, "priority": index} for index, target in enumerate(targets)],
            }
        ],
    }
    return yaml.safe_dump_all([providers, routing])


class Load:
    """Requests for `chat`, one after the other from several threads, until stopped; remembers what went wrong."""

    def __init__(self, gateway: Gateway, threads: int) -> None:
        self.failures: list[str] = []
        self.served: set[str] = set()
        self.answers = 0
        self._gateway = gateway
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(threads)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        with httpx.Client(base_url=self._gateway.stack.listen, timeout=30.0) as client:
            while not self._stop.is_set():
                try:
                    answer = client.post(
                        "/v1/chat/completions", json=chat_body(model="chat"), headers=self._gateway.headers(USAGE)
                    )
                except httpx.HTTPError as error:
                    self.failures.append(repr(error))
                    continue
                self.answers += 1
                if answer.status_code != 200:
                    self.failures.append(f"{answer.status_code} {answer.text[:300]}")
                else:
                    self.served.add(answer.headers["x-tfy-resolved-model"])


def serves(load: Load, target: str) -> Any:
    """Looks whether the target has served."""
    load.served.discard(target)
    return lambda: True if target in load.served else None


def test_a_provider_is_added_repriced_and_removed_under_load(tmp_path: Path) -> None:
    """Not one request fails, a stream that was open before all of it ends whole, and the new price is charged."""
    started = {"policy.yaml": BUDGET, "routes.yaml": policies("http://127.0.0.1:9", [])}
    with running_stack(tmp_path, started) as stack:
        routes = tmp_path / "policies" / "routes.yaml"
        gateway = Gateway(stack, "reconfigure")
        held = {"hold_after_chunks": 2, "hold_open_until": "all-done"}
        request = gateway.http.build_request(
            "POST", "/v1/chat/completions", json=chat_body(stream=True), headers=gateway.headers(USAGE, held)
        )
        stream = gateway.http.send(request, stream=True)
        public = cost(GPT_4O_MINI, input_uncached=100, output=50)
        with Load(gateway, threads=2) as load:
            eventually(serves(load, "openai-main/gpt-4o-mini"), "the first provider")
            routes.write_text(policies(stack.mock_url, ["fresh"]))
            eventually(serves(load, "fresh/own"), "an added provider")
            routes.write_text(policies(stack.mock_url, ["fresh"], input_price=0.005))
            repriced = cost({"input": 5_000, "output": 2_000}, input=100, output=50)
            eventually(
                lambda: True if any(e["charge_nanodollars"] == repriced for e in gateway.journal()[:20]) else None,
                "a request at the new price",
            )
            routes.write_text(policies(stack.mock_url, ["fresh", "other"], input_price=0.005))
            eventually(serves(load, "other/own"), "a second added provider")
            routes.write_text(policies(stack.mock_url, []))
            eventually(serves(load, "openai-main/gpt-4o-mini"), "the first provider again")
        gateway.release("all-done")
        text = "".join(stream.iter_text())
        stream.close()

        assert not load.failures, load.failures[:5]
        assert load.answers > 0
        assert text.rstrip().endswith("data: [DONE]")
        entries = eventually(
            lambda: gateway.journal() if gateway.account("per-cost-center")["held"] == 0 else None, "every settlement"
        )
        fresh = cost({"input": 1_000, "output": 2_000}, input=100, output=50)
        prices = {"openai-main/gpt-4o-mini": {public}, "fresh/own": {fresh, repriced}, "other/own": {repriced}}
        for target, charges in prices.items():
            assert {entry["charge_nanodollars"] for entry in entries if entry["served_model"] == target} == charges
        assert {entry["served_model"] for entry in entries} == set(prices)
        gateway.close()
