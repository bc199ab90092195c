"""What is compared: each started on free ports in a directory of its own, in front of the same mock provider."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bench.errors import BenchError
from bench.machine import descendants
from bench.processes import first_line, free_port, pinned, running, wait_for
from ext_proc.envoy_config import find_envoy
from ext_proc.identity.keys import KeyHash, key_text

KEY = key_text("bench", "b" * 43)
LITELLM_KEY = "sk-bench-master-key"
TAGS = {"cost_center": "bench", "repo": "ranking", "team": "search", "environment": "ci"}
TOLLGATE_HEADERS = {"authorization": f"Bearer {KEY}", "x-tfy-metadata": json.dumps(TAGS, separators=(",", ":"))}


@dataclass(frozen=True, slots=True)
class Subject:
    """A running gateway: where it listens, its processes by group, what a request to it carries."""

    url: str
    groups: Mapping[str, list[int]]
    headers: Mapping[str, str] = field(default_factory=dict)


@contextlib.contextmanager
def mock_provider(core: int | None = None) -> Iterator[tuple[str, int]]:
    """Tollgate's mock provider; its URL and pid."""
    command = [sys.executable, "-P", "-m", "ext_proc.cli", "mock-provider", "--listen", "127.0.0.1:0"]
    with running(pinned(command, core), stdout=subprocess.PIPE) as process:
        yield first_line(process).split()[2].rstrip("/"), process.pid


@contextlib.contextmanager
def envoy_alone(provider: str, directory: Path, core: int | None = None) -> Iterator[Subject]:
    """Envoy, a listener, the router: what any gateway on Envoy starts from."""
    with _plain_envoy(provider, directory, None, "NONE", core) as (url, pid):
        yield Subject(url, {"envoy": [pid]})


@contextlib.contextmanager
def floor(provider: str, directory: Path, core: int | None = None, *, answers: str = "NONE") -> Iterator[Subject]:
    """Envoy and an ext_proc server that does nothing. `answers`: the body mode of responses."""
    path = directory / "floor.sock"
    command = [sys.executable, "-m", "bench.gateways.floor", f"unix:{path}"]
    with running(pinned(command, core), stdout=subprocess.PIPE) as server:
        first_line(server)
        with _plain_envoy(provider, directory, path, answers, core) as (url, pid):
            yield Subject(url, {"envoy": [pid], "sidecar": [server.pid]})


@contextlib.contextmanager
def tollgate(
    provider: str, directory: Path, core: int | None = None, *, metering: str, workers: int = 1, rules: int = 50
) -> Iterator[Subject]:
    """`tollgate up` with everything on: keys, tags, budgets and a rate limit in Redis, journal, metrics."""
    chosen = directory / "policies"
    chosen.mkdir()
    (chosen / "bench.yaml").write_text(policies(rules))
    command = [sys.executable, "-P", "-m", "ext_proc.cli", "up", "--policies", str(chosen)]
    command += ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--state-dir", str(directory / "state")]
    command += ["--workers", str(workers), "--metering", metering, "--upstream", f"openai-main={provider}"]
    command += ["--upstream", f"anthropic-main={provider}", "--drain", "1"]
    with running(pinned(command, core), stdout=subprocess.PIPE, errors=directory / "stderr") as process:
        line = first_line(process)
        listening = re.match(r"tollgate ready listen=(\S+)", line)
        if listening is None:
            raise BenchError(f"tollgate did not start: {(directory / 'stderr').read_text()[-2000:]}")
        children = json.loads((directory / "state" / "children.json").read_text())["children"]
        pids = {name: int(child["pid"]) for name, child in children.items()}
        groups = {
            "envoy": [pids["envoy"]],
            "sidecar": [pid for name, pid in pids.items() if re.fullmatch(r"w\d+", name)],
            "redis": [pids["redis"]],
        }
        yield Subject(listening[1], groups, TOLLGATE_HEADERS)


@contextlib.contextmanager
def litellm(command: Path, provider: str, directory: Path, core: int | None = None) -> Iterator[Subject]:
    """LiteLLM's proxy: one worker, production mode, its master key. Without a database: no keys, no budgets."""
    port = free_port()
    config = {
        "model_list": [
            {
                "model_name": "gpt-4o-mini",
                "litellm_params": {"model": "openai/gpt-4o-mini", "api_base": f"{provider}/v1", "api_key": "sk-mock"},
            }
        ],
        "general_settings": {"master_key": LITELLM_KEY},
        "litellm_settings": {"telemetry": False, "set_verbose": False},
    }
    (directory / "litellm.yaml").write_text(json.dumps(config))  # JSON is YAML
    argv = [str(command), "--config", str(directory / "litellm.yaml"), "--host", "127.0.0.1", "--port", str(port)]
    environment = {"LITELLM_LOG": "ERROR", "LITELLM_MODE": "PRODUCTION", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    log = directory / "litellm.log"
    with running(pinned([*argv, "--num_workers", "1"], core), errors=log, environment=environment) as process:
        url = f"http://127.0.0.1:{port}"
        wait_for(f"{url}/health/liveliness", process, log)
        yield Subject(url, {"proxy": descendants(process.pid)}, {"authorization": f"Bearer {LITELLM_KEY}"})


def last_core() -> int:
    """Where the load and the provider run when the gateway has the first core to itself."""
    return max(os.sched_getaffinity(0))


def policies(rules: int) -> str:
    """So many rules about the request's first tag, of which four match it: the others want another repository."""
    others = "".join(
        f"  - id: other-{n}\n    when: {{metadata: {{cost_center: bench, repo: other-{n}}}}}\n"
        f"    limit_to: 100\n    unit: cost_per_month\n"
        for n in range(rules - 4)
    )
    return f"""
name: keys
type: gateway-identity-config
keys:
  - {{id: bench, hash: '{KeyHash.plain(KEY)}', user: ada, team: search, virtual_account: ci}}
---
name: tags
type: gateway-tagging-config
rules:
  - {{id: tagged, when: {{}}, required: [cost_center], mode: enforce}}
---
name: rates
type: gateway-rate-limiting-config
rules:
  - {{id: rate, when: {{metadata: {{cost_center: bench}}}}, limit_to: 100000000, unit: requests_per_minute}}
---
name: budgets
type: gateway-budget-config
rules:
  - {{id: month, when: {{}}, limit_to: 1000000, unit: cost_per_month, budget_applies_per: [metadata.cost_center]}}
  - {{id: day, when: {{}}, limit_to: 1000000, unit: cost_per_day, budget_applies_per: [metadata.repo]}}
  - {{id: tokens, when: {{metadata: {{repo: ranking}}}}, limit_to: 1000000000000, unit: tokens_per_day}}
{others}"""


@contextlib.contextmanager
def _plain_envoy(
    provider: str, directory: Path, processor: Path | None, answers: str, core: int | None
) -> Iterator[tuple[str, int]]:
    port, admin = free_port(), free_port()
    config = directory / "plain-envoy.json"
    config.write_text(json.dumps(_envoy_config(provider, port, admin, processor, answers)))
    threads = len(os.sched_getaffinity(0)) if core is None else 1
    argv = [str(find_envoy()), "-c", str(config), "--disable-hot-restart", "-l", "error"]
    log = directory / "plain-envoy.log"
    with running(pinned([*argv, "--concurrency", str(threads)], core), errors=log) as process:
        wait_for(f"http://127.0.0.1:{admin}/ready", process, log)
        yield f"http://127.0.0.1:{port}", process.pid


def _envoy_config(provider: str, port: int, admin: int, processor: Path | None, answers: str) -> dict[str, object]:
    types = "type.googleapis.com/envoy.extensions"
    filters: list[dict[str, object]] = []
    clusters = [_cluster("provider", {"socket_address": _address(provider.removeprefix("http://"))})]
    if processor is not None:
        http2: dict[str, object] = {"explicit_http_config": {"http2_protocol_options": {}}}
        options = {"@type": f"{types}.upstreams.http.v3.HttpProtocolOptions", **http2}
        key = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
        cluster = _cluster("floor", {"pipe": {"path": str(processor)}})
        clusters.append({**cluster, "typed_extension_protocol_options": {key: options}})
        mode = {"request_header_mode": "SEND", "request_body_mode": "BUFFERED", "response_body_mode": answers}
        headers = {"response_header_mode": "SKIP" if answers == "NONE" else "SEND"}
        filters.append(
            {
                "name": "floor",
                "typed_config": {
                    "@type": f"{types}.filters.http.ext_proc.v3.ExternalProcessor",
                    "grpc_service": {"envoy_grpc": {"cluster_name": "floor"}, "timeout": "0s"},
                    "message_timeout": "2s",
                    "processing_mode": {**mode, **headers},
                },
            }
        )
    filters.append({"name": "router", "typed_config": {"@type": f"{types}.filters.http.router.v3.Router"}})
    route = {"match": {"prefix": "/"}, "route": {"cluster": "provider", "timeout": "0s"}}
    manager = {
        "@type": f"{types}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "plain",
        "http_filters": filters,
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
    }
    listener = {
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }
    return {
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": admin}}},
        "static_resources": {"listeners": [listener], "clusters": clusters},
    }


def _cluster(name: str, address: Mapping[str, object]) -> dict[str, object]:
    many = {"max_connections": 100_000, "max_pending_requests": 100_000, "max_requests": 100_000}
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": address}}]}]
    return {
        "name": name,
        "circuit_breakers": {"thresholds": [many]},
        "load_assignment": {"cluster_name": name, "endpoints": endpoints},
    }


def _address(text: str) -> dict[str, object]:
    host, _, port = text.rpartition(":")
    return {"address": host, "port_value": int(port)}
