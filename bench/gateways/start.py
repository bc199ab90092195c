"""How long `tollgate serve` takes to its first answer, beside an Envoy that ran before it, as in a pod."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from bench.errors import BenchError
from bench.gateways.load import Request
from bench.gateways.subjects import policies
from bench.processes import START_SECONDS, first_line, free_port, redis_server, running
from ext_proc.envoy_config import EnvoySettings, UpstreamAccount, WorkerEndpoint, find_envoy, render

POLL_SECONDS = 0.02
ACCOUNTS = ("openai-main", "anthropic-main")


def seconds_to_first_answer(provider: str, directory: Path, request: Request) -> float:
    """The request is sent again and again until it is answered with 200."""
    (directory / "policies").mkdir()
    (directory / "policies" / "bench.yaml").write_text(policies(50))
    settings = EnvoySettings(
        workers=(WorkerEndpoint("w0", f"unix:{directory}/w0.sock"),),
        accounts=tuple(UpstreamAccount(name, provider) for name in ACCOUNTS),
        listen_port=free_port(),
        admin=f"unix:{directory}/admin.sock",
    )
    (directory / "envoy.yaml").write_text(render(settings))
    envoy = [str(find_envoy()), "-c", str(directory / "envoy.yaml"), "--disable-hot-restart", "-l", "error"]
    serve = [sys.executable, "-P", "-m", "ext_proc.cli", "serve", "--policies", str(directory / "policies")]
    serve += ["--socket-dir", str(directory), "--admin", "127.0.0.1:0", "--state-dir", str(directory / "state")]
    serve += ["--workers", "1"]
    for account in ACCOUNTS:
        serve += ["--upstream", f"{account}={provider}"]
    url = f"http://127.0.0.1:{settings.listen_port}{request.path}"
    with redis_server(directory) as redis_url, running(envoy, errors=directory / "envoy.log"):
        _wait(url, request, {503})
        started = time.monotonic()
        command = [*serve, "--redis", redis_url]
        with running(command, stdout=subprocess.PIPE, errors=directory / "serve.log") as sidecar:
            _wait(url, request, {200})
            taken = time.monotonic() - started
            if not first_line(sidecar):
                raise BenchError(f"tollgate serve did not start: {(directory / 'serve.log').read_text()[-2000:]}")
            return taken


def _wait(url: str, request: Request, wanted: set[int]) -> None:
    give_up_at = time.monotonic() + START_SECONDS
    while time.monotonic() < give_up_at:
        with contextlib.suppress(OSError):
            if _status(url, request) in wanted:
                return
        time.sleep(POLL_SECONDS)
    raise BenchError(f"no answer with {wanted} at {url}")


def _status(url: str, request: Request) -> int:
    asked = urllib.request.Request(url, data=request.body, headers=dict(request.headers), method="POST")
    try:
        with urllib.request.urlopen(asked, timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code
