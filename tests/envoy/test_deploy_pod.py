"""The pod's own commands, run here as processes: they fit together, and stop without losing an answer."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest
import yaml

from ext_proc.envoy_config import find_envoy

pytestmark = pytest.mark.envoy

BASE = Path(__file__).parents[2] / "deploy" / "kustomize" / "base"
SECONDS = 60


@contextmanager
def _running(command: list[str], ready: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process that has said that it is ready, and the line; ended with SIGTERM, which it obeys."""
    process = subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        assert process.stdout is not None
        said: list[str] = []
        while not said or not re.search(ready, said[-1]):
            line = process.stdout.readline()
            assert line, "".join(said)
            said.append(line)
        yield process, said[-1]
    finally:
        process.terminate()
        process.communicate(timeout=SECONDS)


def test_the_pod_serves_and_drains(redis_url: str) -> None:
    """Rendered, started and drained by the commands of the manifest, a pod answers a request and charges it."""
    pod = yaml.safe_load((BASE / "deployment.yaml").read_text())["spec"]["template"]["spec"]
    containers = {container["name"]: container for container in (*pod["initContainers"], *pod["containers"])}
    with ExitStack() as stack:
        run = stack.enter_context(tempfile.TemporaryDirectory(prefix="tg-"))
        tollgate = str(Path(sys.executable).parent / "tollgate")

        def here(arguments: list[str]) -> list[str]:
            """A command of the manifest, with this machine's places for the pod's."""
            places = {
                "/run/tollgate": run,
                "/var/lib/tollgate": f"{run}/state",
                "/etc/tollgate/policies": str(BASE / "policies"),
                "$(TOLLGATE_REDIS_URL)": redis_url,
                "0.0.0.0": "127.0.0.1",
                ":10000": ":0",
                ":10080": ":0",
            }
            for place, substitute in places.items():
                arguments = [argument.replace(place, substitute) for argument in arguments]
            return [sys.executable if argument == "python" else argument for argument in arguments]

        mock = [tollgate, "mock-provider", "--listen", "127.0.0.1:0"]
        _, line = stack.enter_context(_running(mock, "ready"))
        upstream = f"--upstream=openai-main={line.split()[-1]}"
        render = containers["envoy-config"]["command"] + containers["envoy-config"]["args"]
        subprocess.run([*here(render), f"--admin=unix:{run}/admin.sock", upstream], check=True, timeout=SECONDS)
        serve = [tollgate, *here(containers["sidecar"]["args"]), upstream]
        sidecar, line = stack.enter_context(_running(serve, "^tollgate ready"))
        admin = line.split("admin=")[1].strip()
        envoy = here(containers["envoy"]["command"])
        process, _ = stack.enter_context(
            _running([str(find_envoy()), *envoy[1:], "--disable-hot-restart"], "starting workers")
        )
        transport = httpx.HTTPTransport(uds=f"{run}/admin.sock")
        with httpx.Client(transport=transport, timeout=SECONDS) as client:
            listeners = client.get("http://envoy/listeners?format=json").json()["listener_statuses"]
        port = listeners[0]["local_address"]["socket_address"]["port_value"]

        answer = httpx.post(
            f"http://127.0.0.1:{port}/v1/chat/completions",
            json={"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hello"}]},
            headers={"x-tfy-metadata": '{"cost_center": "search"}', "x-mock-usage": '{"input": 100, "output": 50}'},
            timeout=SECONDS,
        )
        hook = here(containers["envoy"]["lifecycle"]["preStop"]["exec"]["command"])
        hook = [argument for argument in hook if not argument.startswith("--notice")]
        drained = subprocess.run([*hook, "--notice=0", f"--admin=unix:{run}/admin.sock"], check=False, timeout=SECONDS)
        process.terminate()
        process.wait(SECONDS)
        journal = httpx.get(f"{admin}/v1/journal", timeout=SECONDS).json()["entries"]
        sidecar.terminate()

        assert answer.status_code == 200, answer.text
        assert answer.headers["x-tollgate-verdict"].startswith("pass")
        assert drained.returncode == 0
        assert [entry["usage"]["input_uncached"] for entry in journal] == [100]
        assert sidecar.wait(SECONDS) == 0
        assert not list(Path(run).glob("w*.sock"))
