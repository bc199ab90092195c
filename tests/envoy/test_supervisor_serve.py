"""`tollgate serve`: the sidecar alone, beside an Envoy that the test runs as an operator would."""

from __future__ import annotations

import contextlib
import re
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import httpx
import pytest

from ext_proc import wire
from ext_proc.envoy_config import EnvoySettings, UpstreamAccount, WorkerEndpoint
from ext_proc.wire import health_pb2
from tests.envoy_kit import Envoy
from tests.stack_fixture import READY_SECONDS, STOP_SECONDS, TRANSIENT, plain_environment

pytestmark = pytest.mark.envoy

BUDGET = """
name: everything
type: gateway-budget-config
rules:
  - {id: all, when: {}, limit_to: 100, unit: cost_per_lifetime}
"""
BODY = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}]}


@dataclass
class Command:
    """A tollgate command that has printed its first line."""

    process: subprocess.Popen[str]
    line: str


@contextlib.contextmanager
def command(directory: Path, *arguments: str) -> Iterator[Command]:
    """Run a tollgate command for the length of a block; it must end well when it is asked to."""
    with (
        (directory / f"{arguments[0]}.stderr").open("w+") as stderr,
        subprocess.Popen(
            [sys.executable, "-P", "-m", "ext_proc.cli", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env=plain_environment(),
            cwd=directory,
        ) as process,
    ):
        assert process.stdout is not None
        try:
            ready = select.select([process.stdout], [], [], READY_SECONDS)[0]
            line = process.stdout.readline().strip() if ready else ""
            assert line, Path(stderr.name).read_text()
            yield Command(process, line)
        finally:
            process.send_signal(signal.SIGTERM)
            status = process.wait(STOP_SECONDS)
        assert status == 0, Path(stderr.name).read_text()


@pytest.fixture
def policies(tmp_path: Path) -> Path:
    """A policy set that admits everything."""
    directory = tmp_path / "policies"
    directory.mkdir()
    (directory / "budget.yaml").write_text(BUDGET)
    return directory


@pytest.fixture
def shared() -> Iterator[Path]:
    """The directory of sockets that sidecar and Envoy both see; its path is short."""
    with tempfile.TemporaryDirectory(prefix="tg-serve-") as directory:
        yield Path(directory)


def test_a_sidecar_serves_an_envoy_that_someone_else_runs(
    tmp_path: Path, policies: Path, shared: Path, redis_url: str
) -> None:
    """Over sockets in a shared directory: requests are admitted and charged, probes answer, and SIGTERM leaves neither
    sockets nor a lock behind.
    """
    with command(tmp_path, "mock-provider", "--listen", "127.0.0.1:0") as mock:
        mock_url = mock.line.rpartition(" ")[2]
        options = ("--socket-dir", str(shared), "--redis", redis_url, "--admin", "127.0.0.1:0", "--workers", "2")
        with command(
            tmp_path, "serve", *options, "--policies", str(policies), "--upstream", f"openai-main={mock_url}"
        ) as sidecar:
            ready = re.fullmatch(r"tollgate ready grpc=(\S+) admin=(http://\S+)", sidecar.line)
            assert ready is not None
            assert ready[1].split(",") == [f"unix:{shared}/w0.sock", f"unix:{shared}/w1.sock"]
            envoy = Envoy(
                EnvoySettings(
                    workers=(
                        WorkerEndpoint("w0", f"unix:{shared}/w0.sock"),
                        WorkerEndpoint("w1", f"unix:{shared}/w1.sock"),
                    ),
                    accounts=(UpstreamAccount("openai-main", mock_url),),
                    listen_port=0,
                    admin=f"unix:{shared}/admin.sock",
                ),
                shared,
            )
            try:
                url = f"http://127.0.0.1:{envoy.port()}/v1/chat/completions"
                assert httpx.post(url, json=BODY, timeout=30).status_code == 200
                while not (entries := httpx.get(f"{ready[2]}/v1/journal").json()["entries"]):
                    assert sidecar.process.poll() is None
                assert entries[0]["basis"] == "reported"
                components = httpx.get(f"{ready[2]}/readyz").json()["components"]
                assert components == {"accepting": True, "w0": "up", "w1": "up"}
            finally:
                envoy.stop()
    assert list(shared.glob("w*.sock")) == []
    assert not TRANSIENT & {path.name for path in (tmp_path / ".tollgate").iterdir()}
    told = (tmp_path / "serve.stderr").read_text()
    assert "no credential for anthropic-main, gemini-main: the provider will refuse" in told
    assert "SIGTERM: stopping" in told


def test_a_sidecar_serves_over_tcp(tmp_path: Path, policies: Path, redis_url: str) -> None:
    """With --grpc-listen one worker answers on a port, which is reported where it was left to chance."""
    options = ("--grpc-listen", "127.0.0.1:0", "--redis", redis_url, "--admin", "127.0.0.1:0")
    with command(tmp_path, "serve", *options, "--policies", str(policies)) as sidecar:
        ready = re.fullmatch(r"tollgate ready grpc=(127\.0\.0\.1:\d+) admin=(http://\S+)", sidecar.line)
        assert ready is not None
        with grpc.insecure_channel(ready[1]) as channel:
            check = channel.unary_unary(
                wire.HEALTH_CHECK_METHOD,
                request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
                response_deserializer=health_pb2.HealthCheckResponse.FromString,
            )
            assert check(health_pb2.HealthCheckRequest(), timeout=30).status == health_pb2.HealthCheckResponse.SERVING


def test_the_books_are_closed_to_other_machines_without_a_token(tmp_path: Path, policies: Path, redis_url: str) -> None:
    """Bound to every interface, probes and metrics answer, while who spends what needs the admin token."""
    options = ("--grpc-listen", "127.0.0.1:0", "--redis", redis_url, "--admin", "0.0.0.0:0")
    with command(tmp_path, "serve", *options, "--policies", str(policies)) as sidecar:
        admin = sidecar.line.rpartition("admin=")[2]
        assert admin.startswith("http://127.0.0.1:")
        assert httpx.get(f"{admin}/readyz").status_code == 200
        assert httpx.get(f"{admin}/v1/budgets").status_code == 403
