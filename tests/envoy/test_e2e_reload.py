"""Hot reload of the whole stack under load: by every way a set changes, and by a set that is broken.

Each version of the set names its rules after itself, in two files: an answer whose rules are of two versions was judged
by half of each.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import pytest

from tests.e2e_kit import PATIENCE_SECONDS, chat_body, eventually
from tests.scrape_kit import parsed, value
from tests.stack_fixture import RunningStack, running_stack

pytestmark = pytest.mark.envoy

IN_FLIGHT = 500
AT_ONCE = 50
"""How many of them arrive together: what is tested is that they are in flight, not how large a burst is served."""

PASSERS_BY = 6
"""How many clients send one short request after the other while the set changes."""

BUDGETS = """
name: budgets
type: gateway-budget-config
evaluation: all
rules:
  - {{id: all-{version}, when: {{}}, limit_to: 1000, unit: cost_per_day}}
  - {{id: per-client-{version}, when: {{}}, limit_to: 1000, unit: cost_per_month, budget_applies_per: [user]}}
"""
RATES = """
name: rates
type: gateway-rate-limiting-config
rules:
  - {{id: rate-{version}, when: {{}}, limit_to: 1000000, unit: requests_per_minute}}
"""


class ConfigMap:
    """A directory as the kubelet mounts a ConfigMap: `..data` is a link to the directory of one version."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True)
        self.version = ""
        self.swap("v1")
        for name in ("budgets.yaml", "rates.yaml"):
            (directory / name).symlink_to(f"..data/{name}")

    def write(self, version: str, budgets: str | None = None) -> Path:
        """The files of a version, in a directory that nothing links to yet."""
        files = self.directory / f"..{version}"
        files.mkdir()
        (files / "budgets.yaml").write_text(budgets or BUDGETS.format(version=version))
        (files / "rates.yaml").write_text(RATES.format(version=version))
        return files

    def swap(self, version: str, budgets: str | None = None) -> None:
        """Put a version in place in one step, as the kubelet does."""
        files = self.write(version, budgets)
        fresh = self.directory / "..data_tmp"
        fresh.symlink_to(files.name)
        fresh.replace(self.directory / "..data")
        self.version = version

    def one_file(self) -> None:
        """From now on there is one file, so that an edit of it is a whole version."""
        files = self.directory / f"..{self.version}"
        (self.directory / "rates.yaml").unlink()
        text = (files / "budgets.yaml").read_text() + "---" + (files / "rates.yaml").read_text()
        (files / "rates.yaml").unlink()
        self._write(text)

    def edit(self, version: str) -> None:
        """Write the file anew in place, as an editor does."""
        self._write(self._path().read_text().replace(f"-{self.version}", f"-{version}"))
        self.version = version

    def edit_unseen(self, version: str) -> None:
        """Edit in place so that time, size and inode stay as they were: no poll can see it."""
        before = self._path().stat()
        assert len(version) == len(self.version)
        with self._path().open("r+") as file:
            text = file.read().replace(f"-{self.version}", f"-{version}")
            file.seek(0)
            file.write(text)
        os.utime(self._path(), ns=(before.st_atime_ns, before.st_mtime_ns))
        self.version = version

    def _path(self) -> Path:
        return (self.directory / "budgets.yaml").resolve()

    def _write(self, text: str) -> None:
        self._path().write_text(text)


@dataclass
class Site:
    """A running stack on a ConfigMap."""

    stack: RunningStack
    policies: ConfigMap
    gates: int = 0

    def policy(self) -> dict[str, Any]:
        """What `/v1/policy` says."""
        report: dict[str, Any] = httpx.get(f"{self.stack.admin}/v1/policy", timeout=PATIENCE_SECONDS).json()
        return report

    def ready(self) -> dict[str, Any]:
        """What `/readyz` says."""
        report: dict[str, Any] = httpx.get(f"{self.stack.admin}/readyz", timeout=PATIENCE_SECONDS).json()
        return report

    def metric(self, name: str, **labels: str) -> float:
        """One sample of the scrape."""
        scrape = httpx.get(f"{self.stack.admin}/metrics", timeout=PATIENCE_SECONDS)
        return value(parsed(scrape.content), name, **labels)

    def converged_after(self, version: str) -> str:
        """The hash that supervisor and workers all report, once it is another than this one."""

        def look() -> str | None:
            report = self.policy()
            moved = report["converged"] and report["healthy"] and report["version"] != version
            return str(report["version"]) if moved and len(report["workers"]) == 2 else None

        return eventually(look, f"all workers on another set than {version}")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One stack of two workers for the module."""
    directory = tmp_path_factory.mktemp("reload")
    policies = ConfigMap(directory / "mounted")
    with running_stack(directory / "stack", policies.directory, "--workers", "2") as stack:
        yield Site(stack, policies)


@dataclass
class Seen:
    """Answers: status and version of the rules that judged them."""

    answers: list[tuple[int, str]] = field(default_factory=list)

    def take(self, answer: aiohttp.ClientResponse, body: bytes) -> None:
        """Remember one answer; it must be whole and judged by one version."""
        assert answer.status == 200, body.decode()
        matched = json.loads(answer.headers["x-tfy-applied-rules"])["matched"]
        versions = {re.sub(r".*-", "", rule) for rule in matched}
        assert len(matched) == 3, matched
        assert len(versions) == 1, f"judged by half of each: {matched}"
        assert b"[DONE]" in body or json.loads(body)["usage"]["completion_tokens"] > 0
        self.answers.append((answer.status, versions.pop()))

    def versions(self) -> Counter[str]:
        """How many answers each version judged."""
        return Counter(version for _, version in self.answers)


class Load:
    """500 requests held open at the provider, and passers-by."""

    def __init__(self, site: Site) -> None:
        site.gates += 1
        self.site = site
        self.gate = f"gate-{site.gates}"
        self.held, self.passing = Seen(), Seen()
        self.passed = asyncio.Event()
        self._url = f"{site.stack.listen}/v1/chat/completions"
        self._stopping = False

    async def run(self, change: Callable[[], None]) -> None:
        """Hold, change, wait until every worker has it, pass on some more, release."""
        timeout = aiohttp.ClientTimeout(total=120)
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(timeout=timeout, connector=connector) as client:
            open_ones: list[asyncio.Task[None]] = []
            while len(open_ones) < IN_FLIGHT:
                more = range(len(open_ones), len(open_ones) + AT_ONCE)
                open_ones += [asyncio.create_task(self._hold(client, number)) for number in more]
                await self._until_held(client, open_ones)
            passers_by = [asyncio.create_task(self._pass(client, number)) for number in range(PASSERS_BY)]
            before = (await asyncio.to_thread(self.site.policy))["version"]
            await asyncio.to_thread(change)
            await asyncio.to_thread(self.site.converged_after, before)
            await self._until_judged_by(self.site.policies.version)
            self._stopping = True
            await asyncio.gather(*passers_by)
            async with client.post(f"{self.site.stack.mock_url}/mock/release/{self.gate}") as released:
                assert released.status == 200
            await asyncio.gather(*open_ones)

    async def _until_held(self, client: aiohttp.ClientSession, open_ones: list[asyncio.Task[None]]) -> None:
        """Until all of them wait at the gate. One that has ended was refused, and says so."""
        waiting: dict[str, int] = {}
        while waiting.get(self.gate, 0) < len(open_ones):
            for task in open_ones:
                if task.done():
                    task.result()
            async with client.get(f"{self.site.stack.mock_url}/mock/waiting") as answer:
                waiting = (await answer.json())["waiting"]

    async def _until_judged_by(self, version: str) -> None:
        while self.passing.versions()[version] < PASSERS_BY * 5:
            self.passed.clear()
            await self.passed.wait()

    async def _hold(self, client: aiohttp.ClientSession, number: int) -> None:
        """Half of them wait before the first byte, half in the middle of the stream."""
        behavior: dict[str, object] = {"hold_open_until": self.gate}
        if number % 2:
            behavior["hold_after_chunks"] = 2
        await self._ask(client, self.held, f"held-{number % 7}", behavior, stream=True)

    async def _pass(self, client: aiohttp.ClientSession, number: int) -> None:
        while not self._stopping:
            await self._ask(client, self.passing, f"passer-by-{number}", {}, stream=False)
            self.passed.set()

    async def _ask(
        self, client: aiohttp.ClientSession, seen: Seen, user: str, behavior: object, *, stream: bool
    ) -> None:
        headers = {"x-tfy-metadata": json.dumps({"user": user}), "x-mock-behavior": json.dumps(behavior)}
        body = chat_body(max_tokens=50, stream=stream)
        async with client.post(self._url, json=body, headers=headers) as answer:
            seen.take(answer, await answer.read())


def swap(site: Site) -> None:
    site.policies.swap("v2")


def edit(site: Site) -> None:
    site.policies.edit("v4")


def hang_up_on_workers(site: Site) -> None:
    site.policies.edit_unseen("v5")
    for pid in site.stack.worker_pids.values():
        os.kill(pid, signal.SIGHUP)
    site.stack.process.send_signal(signal.SIGHUP)


def hang_up_on_the_supervisor(site: Site) -> None:
    site.policies.edit_unseen("v6")
    site.stack.process.send_signal(signal.SIGHUP)


def become_one_file(site: Site) -> None:
    """Not under load: a set of one file, which the edits below change whole."""
    before = site.policy()["version"]
    site.policies.one_file()
    site.converged_after(before)


@pytest.mark.parametrize(
    ("prepare", "change"),
    [
        (None, swap),
        (become_one_file, edit),
        (None, hang_up_on_workers),
        (None, hang_up_on_the_supervisor),
    ],
    ids=["configmap", "edit", "sighup-workers", "sighup-supervisor"],
)
def test_a_reload_under_load_touches_no_request(
    site: Site, prepare: Callable[[Site], None] | None, change: Callable[[Site], None]
) -> None:
    """500 requests in flight keep the set they began with; whoever passes by gets the old one or the new one, whole;
    none is refused or lost; all workers report the new hash; and every request is settled.
    """
    if prepare is not None:
        prepare(site)
    old = site.policies.version
    load = Load(site)

    asyncio.run(load.run(lambda: change(site)))

    new = site.policies.version
    assert load.held.versions() == {old: IN_FLIGHT}
    assert set(load.passing.versions()) <= {old, new}
    eventually(lambda: True if site.metric("tollgate_holds_open") == 0 else None, "every hold settled")
    spent = {version: [account["held"] for account in accounts_of(site, f"all-{version}")] for version in (old, new)}
    assert spent == {old: [0], new: [0]}


def accounts_of(site: Site, rule: str) -> list[dict[str, Any]]:
    answer = httpx.get(f"{site.stack.admin}/v1/budgets", params={"rule": rule}, timeout=PATIENCE_SECONDS)
    accounts: list[dict[str, Any]] = answer.json()["accounts"]
    return accounts


def test_a_broken_set_changes_nothing_and_is_seen_everywhere(site: Site) -> None:
    """The last good set goes on judging; probe, report, metric and logs say what is wrong; mended, all is well."""
    good = site.policy()
    rejected = site.metric("tollgate_policy_loads_total", result="rejected") if good["refused"] else 0
    path = (site.policies.directory / "budgets.yaml").resolve()
    text = path.read_text()
    path.write_text(text.replace("cost_per_month", "cost_per_fortnight"))

    def seen_by_all() -> dict[str, Any] | None:
        report = site.policy()
        told = [report, *report["workers"]]
        return report if len(told) == 3 and not any(one["healthy"] for one in told) else None

    broken = eventually(seen_by_all, "the broken set, by the supervisor and both workers")
    answer = httpx.post(f"{site.stack.listen}/v1/chat/completions", json=chat_body(), timeout=PATIENCE_SECONDS)
    ready = site.ready()

    assert answer.status_code == 200
    assert f"all-{site.policies.version}" in answer.headers["x-tfy-applied-rules"]
    assert {one["version"] for one in (broken, *broken["workers"])} == {good["version"]}
    assert all("unit" in one["errors"][0] and "budgets.yaml" in one["errors"][0] for one in broken["workers"])
    assert ready["ready"]
    assert "cost_per_fortnight" in ready["policy"]["errors"]
    assert site.metric("tollgate_policy_ok") == 0
    assert site.metric("tollgate_policy_loads_total", result="rejected") == rejected + 2
    for worker in ("w0", "w1"):
        assert f"policy set not loaded, {good['version']} stays" in site.stack.log(worker)
    assert "the last good one stays in force" in site.stack.stderr()

    path.write_text(text)
    eventually(lambda: True if site.policy()["healthy"] and site.policy()["converged"] else None, "the set mended")
    eventually(lambda: True if site.metric("tollgate_policy_ok") == 1 else None, "both workers well again")
    assert "errors" not in site.ready()["policy"]
