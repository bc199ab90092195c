"""Keys under load, and secrets: a rotation costs no valid request, and nothing the stack writes holds a secret."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import httpx
import pytest
import redis

from tests.e2e_kit import PATIENCE_SECONDS, chat_body, eventually
from tests.stack_fixture import RunningStack, StackFactory, plain_environment, running_stack

pytestmark = pytest.mark.envoy

BUDGET = """
name: budgets
type: gateway-budget-config
rules:
  - {id: everything, when: {}, limit_to: 1000, unit: cost_per_month, on_store_failure: allow}
"""
"""On a crowded machine a Redis call may miss its deadline: that is the ledger's story, not the keys'."""
STREAMS = 3
EXAMPLES = Path(__file__).parent.parent.parent / "examples"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """One stack for the module."""
    with running_stack(tmp_path_factory.mktemp("keys"), {"policy.yaml": BUDGET}, "--workers", "2") as stack:
        yield stack


def tollgate(stack: RunningStack, *arguments: str) -> str:
    """A command of the CLI against a stack; what it printed."""
    command = (sys.executable, "-P", "-m", "ext_proc.cli", *arguments, "--admin", stack.admin)
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=stack.state_dir).stdout.strip()


def status(stack: RunningStack, key: str) -> int:
    """What one request with a key is answered."""
    headers = {"authorization": f"Bearer {key}"}
    url = f"{stack.listen}/v1/chat/completions"
    answer = httpx.post(url, json=chat_body(), headers=headers, timeout=PATIENCE_SECONDS)
    if answer.status_code not in {200, 401, 403}:
        sys.stderr.write(f"{answer.status_code} {answer.text}\n")  # shown where the test fails
    return answer.status_code


def good_everywhere(stack: RunningStack, key: str) -> bool | None:
    """Whether eight requests in a row, over both workers, are let in."""
    return True if {status(stack, key) for _ in range(8)} == {200} else None


def refused(stack: RunningStack, key: str) -> bool | None:
    """Whether a request is refused as nobody's."""
    return True if status(stack, key) == 401 else None


def test_rotation_and_revocation_cost_no_valid_request(running: RunningStack) -> None:
    """Requests run all the while: those with a valid secret are all answered, through rotations of their own key and
    through the creation and revocation of others.
    """
    first = tollgate(running, "keys", "create", "--id", "steady", "--user", "ada", "--tag", "cost_center=search")
    eventually(lambda: good_everywhere(running, first), "the key is good")
    current, stopping, seen = [first], threading.Event(), Counter[str]()

    def load() -> None:
        with httpx.Client(base_url=running.listen, timeout=PATIENCE_SECONDS) as client:
            while not stopping.is_set():
                headers = {"authorization": f"Bearer {current[0]}"}
                answer = client.post("/v1/chat/completions", json=chat_body(), headers=headers)
                seen["good" if answer.status_code == 200 else answer.text] += 1

    with ThreadPoolExecutor(STREAMS) as pool:
        workers = [pool.submit(load) for _ in range(STREAMS)]
        try:
            for number in range(3):
                other = tollgate(running, "keys", "create", "--id", f"other-{number}", "--user", "bob")
                new = tollgate(running, "keys", "rotate", "steady", "--overlap", "60s")
                eventually(partial(good_everywhere, running, new), "the new secret is good")
                current[0] = new
                tollgate(running, "keys", "revoke", f"other-{number}")
                eventually(partial(refused, running, other), "it is revoked")
        finally:
            stopping.set()
        for worker in workers:
            worker.result()
    assert set(seen) == {"good"}
    assert seen["good"] > 20
    assert status(running, first) == 401  # two rotations ago


def test_a_stream_outlives_the_revocation_of_its_key(running: RunningStack) -> None:
    """Whoever was let in is answered to the end; the next request is refused."""
    key = tollgate(running, "keys", "create", "--id", "streaming", "--user", "ada")
    eventually(lambda: good_everywhere(running, key), "the key is good")
    headers = {
        "authorization": f"Bearer {key}",
        "x-mock-behavior": json.dumps({"hold_open_until": "revoked", "hold_after_chunks": 1}),
    }
    with (
        httpx.Client(base_url=running.listen, timeout=PATIENCE_SECONDS) as client,
        client.stream("POST", "/v1/chat/completions", json=chat_body(stream=True), headers=headers) as answer,
    ):
        tollgate(running, "keys", "revoke", "streaming")
        eventually(lambda: True if status(running, key) == 401 else None, "it is revoked")
        httpx.post(f"{running.mock_url}/mock/release/revoked").raise_for_status()
        assert answer.status_code == 200
        assert answer.read().rstrip().endswith(b"[DONE]")


def test_the_commands_tell_of_keys_teams_and_tenants(running: RunningStack) -> None:
    """Create, list, show, revoke and audit; teams and tenants take effect on the next requests of their keys."""
    tollgate(running, "teams", "set", "search", "--owner", "lead", "--model", "gpt-4o")
    tollgate(running, "tenants", "set", "acme", "--plan", "pro")
    key = tollgate(running, "keys", "create", "--id", "told", "--team", "search", "--tenant", "acme", "--path", "/v1")
    listed = tollgate(running, "keys", "list")
    assert "told" in listed
    assert key not in listed
    assert json.loads(tollgate(running, "keys", "show", "told"))["tenant"] == "acme"
    eventually(lambda: True if status(running, key) == 403 else None, "the team may not use the model")
    tollgate(running, "teams", "remove", "search")
    eventually(lambda: True if status(running, key) == 200 else None, "the team has no limits any more")
    assert json.loads(tollgate(running, "tenants", "list"))["plan"] == "pro"
    events = [json.loads(line)["event"] for line in tollgate(running, "keys", "audit").splitlines()]
    assert {"team_written", "tenant_written", "team_removed", "key_created"} <= set(events)


AGENT = """. %s; curl -sSf -o /dev/null "$ANTHROPIC_BASE_URL/v1/messages" -H "$ANTHROPIC_CUSTOM_HEADERS" \\
-H "authorization: Bearer $ANTHROPIC_AUTH_TOKEN" -H 'content-type: application/json' \\
-d '{"model": "claude-sonnet-4-6", "max_tokens": 5, "messages": [{"role": "user", "content": "x"}]}'
"""


@pytest.mark.parametrize("name", ["openai_sdk.py", "anthropic_sdk.py", "base_url_clients.py", "curl.sh", "agents.env"])
def test_the_examples_run(running: RunningStack, name: str) -> None:
    """Each example does what it says with TOLLGATE_URL and TOLLGATE_KEY alone, and its tags are in the journal."""
    key_id, example = f"example-{name.partition('.')[0]}", str(EXAMPLES / name)
    key = tollgate(running, "keys", "create", "--id", key_id, "--virtual-account", "examples")
    eventually(lambda: good_everywhere(running, key), "the key is good")
    environment = {
        **plain_environment(),
        "TOLLGATE_URL": running.listen,
        "TOLLGATE_KEY": key,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(EXAMPLES.parent),
    }
    commands = {"py": [sys.executable, example], "sh": ["sh", example], "env": ["sh", "-c", AGENT % example]}
    command = commands[name.partition(".")[2]]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr

    def tagged() -> bool | None:
        entries = httpx.get(f"{running.admin}/v1/journal", params={"limit": 1000}).json()["entries"]
        mine = [entry["tags"] for entry in entries if entry["caller"]["key"] == key_id]
        return True if any("cost_center" in tags or "workflow_id" in tags for tags in mine) else None

    eventually(tagged, "a journal entry with the example's tags")


def test_a_browser_cannot_make_keys(running: RunningStack) -> None:
    """A page somewhere that posts to the loopback address gains nothing."""
    headers = {"origin": "https://evil.example.com"}
    answer = httpx.post(f"{running.admin}/v1/keys", json={"user": "eve"}, headers=headers)

    assert answer.status_code == 403


def test_no_secret_is_written_anywhere(stack: StackFactory, tmp_path: Path) -> None:
    """Planted secrets (a provider's key, virtual keys good, wrong and revoked, a client's own provider key, a cookie,
    the admin token) are in no log, metric, journal, audit trail, Redis value, Envoy dump or file of the state
    directory.
    """
    canaries = {
        "provider": "canaryprovider0123456789abcdefgh",
        "client": "canaryclient0123456789abcdefghij",
        "cookie": "canarycookie0123456789abcdefghij",
        "admin": "canaryadmin0123456789abcdefghijk",
        "server": "canaryserver0123456789abcdefghij",
        "wrong": "Canary" + "w" * 37,
    }
    (tmp_path / "provider.key").write_text(canaries["provider"])
    providers = f"""
name: providers
type: gateway-provider-config
accounts:
  - {{name: openai-main, provider: openai, credential: {{file: {tmp_path / "provider.key"}}}}}
  - {{name: own, provider: openai, credential: {{client: true}}}}
"""
    mock = subprocess.Popen(
        (sys.executable, "-P", "-m", "ext_proc.cli", "mock-provider", "--listen", "127.0.0.1:0"),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert mock.stdout is not None
    url = mock.stdout.readline().split()[2].rstrip("/")
    environment = {"TOLLGATE_ADMIN_TOKEN": canaries["admin"], "TOLLGATE_KEY_SECRET": canaries["server"]}
    running = stack(
        {"policy.yaml": BUDGET, "providers.yaml": providers},
        *(f"--upstream={account}={url}" for account in ("openai-main", "own")),
        environment=environment,
    )
    try:
        written = _exercise(running, canaries)
    finally:
        running.stop()
        mock.terminate()
        mock.wait()
        mock.stdout.close()
    for path in (*running.state_dir.rglob("*"), running.errors):
        if path.is_file():
            written[str(path)] = path.read_bytes().decode("utf-8", "replace")
    assert {"metrics", "journal", "audit", "redis", "config_dump"} < set(written)
    assert any("append" in name or ".rdb" in name for name in written), "Redis wrote its file"
    found = {(kind, place) for kind, secret in canaries.items() for place, text in written.items() if secret in text}
    assert found == set()


def _value(connection: redis.Redis, key: bytes) -> object:
    """Everything under one key."""
    match connection.type(key):
        case b"string":
            return connection.get(key)
        case b"hash":
            return connection.hgetall(key)
        case b"zset":
            return connection.zrange(key, 0, -1)
        case b"stream":
            return connection.xrange(key)
        case other:
            pytest.fail(f"{key!r} is a {other!r}, which this test does not read")


def _exercise(running: RunningStack, canaries: dict[str, str]) -> dict[str, str]:
    """Bring every secret to the stack in every way there is; what it shows meanwhile, by place."""
    admin = httpx.Client(base_url=running.admin, headers={"authorization": f"Bearer {canaries['admin']}"}, timeout=30)
    good = admin.post("/v1/keys", json={"id": "good", "user": "ada"}).json()["key"]
    revoked = admin.post("/v1/keys", json={"id": "revoked", "user": "bob"}).json()["key"]
    canaries |= {"good": good.rpartition("_")[2], "revoked": revoked.rpartition("_")[2]}
    eventually(lambda: good_everywhere(running, good), "the key is good")
    canaries["rotated"] = admin.post("/v1/keys/good/rotate", json={}).json()["key"].rpartition("_")[2]
    admin.post("/v1/keys/revoked/revoke").raise_for_status()
    eventually(lambda: True if status(running, revoked) == 401 else None, "the key is revoked")
    cookie = {"cookie": f"session={canaries['cookie']}"}
    own = {"authorization": f"Bearer {canaries['client']}", "x-api-key": good}
    cases = (
        {"authorization": f"Bearer {good}", **cookie},
        {"x-goog-api-key": good, "x-virtual-key": good, "proxy-authorization": f"Basic {canaries['client']}"},
        {"authorization": f"Bearer tg_good_{canaries['wrong']}"},
        {"authorization": f"Bearer {good},Bearer tg_x_{canaries['wrong']}"},
        {"x-api-key": f"tg_nobody_{canaries['wrong']}", "x-tfy-api-key": canaries["client"]},
        {"x-api-key": good, "x-tfy-metadata": "[" + canaries["client"]},
        own,
    )
    for headers in cases:
        for body in (chat_body(), chat_body(stream=True), chat_body(model="own/gpt-4o-mini"), chat_body(model="none")):
            httpx.post(f"{running.listen}/v1/chat/completions", json=body, headers=headers, timeout=30)
        httpx.get(f"{running.listen}/v1/unknown", headers=headers, timeout=30)

    def journalled() -> bool | None:
        entries = admin.get("/v1/journal", params={"limit": 1000}).json()["entries"]
        return True if any(entry["served_model"].startswith("own/") for entry in entries) else None

    eventually(journalled, "the journal of the own account")
    shown = {name: admin.get(f"/v1/{name}", params={"limit": 1000}).text for name in ("journal", "audit")}
    shown |= {"metrics": admin.get("/metrics").text, "keys": admin.get("/v1/keys").text}
    with redis.Redis.from_url(running.redis_url) as connection:
        shown["redis"] = "".join(repr((key, _value(connection, key))) for key in connection.scan_iter("*"))
    socket = httpx.HTTPTransport(uds=str(running.sockets / "envoy-admin.sock"))
    with httpx.Client(transport=socket, base_url="http://envoy") as envoy:
        for page in (
            "config_dump?include_eds",
            "stats",
            "clusters",
            "listeners",
            "server_info",
            "contention",
            "memory",
        ):
            shown[page.partition("?")[0]] = envoy.get(f"/{page}").text
    for name, pid in running.children.items():
        shown[f"cmdline of {name}"] = Path(f"/proc/{pid}/cmdline").read_text()
    admin.close()
    assert os.environ.get("TOLLGATE_KEY_SECRET") != canaries["server"]
    return shown
