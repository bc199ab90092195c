"""Draining a real Envoy as a pod's preStop hook does."""

from __future__ import annotations

import threading

import httpx
import pytest

from ext_proc.envoy_config.__main__ import main
from tests.envoy_kit import Stack

pytestmark = pytest.mark.envoy


def test_a_drain_waits_for_running_answers() -> None:
    """New connections are refused, the answer under way arrives whole, and only then does the drain end."""
    with Stack() as stack:
        answer = stack.open("long", script={"provider": "stream", "then": "wait"})
        chunks = answer.iter_text()
        text = next(chunks)
        outcome: list[int] = []
        hook = ["drain", "--admin", stack.envoy.admin_address, "--notice", "0", "--limit", "20"]
        draining = threading.Thread(target=lambda: outcome.append(main(hook)))
        draining.start()
        stack.wait_until_refused()
        still_draining = draining.is_alive()
        stack.release("long")
        text += "".join(chunks)
        draining.join(20)

    assert still_draining
    assert text.endswith("data: [DONE]\n\n")
    assert outcome == [0]


def test_a_drain_ends_at_its_limit(capsys: pytest.CaptureFixture[str]) -> None:
    """A stream longer than the limit does not hold up the pod; how many were left is told."""
    with Stack() as stack:
        answer = stack.open("endless", script={"provider": "stream", "then": "wait"})
        chunks = answer.iter_text()
        next(chunks)
        status = main(["drain", "--admin", stack.envoy.admin_address, "--notice", "0", "--limit", "0.2"])

    assert status == 1
    assert "1 requests still ran" in capsys.readouterr().err


def test_clients_are_told_to_go_elsewhere() -> None:
    """While connections are still taken, each answer asks its client to close the connection."""
    with Stack() as stack:
        hook = ["drain", "--admin", stack.envoy.admin_address, "--notice", "20", "--limit", "1.5"]
        draining = threading.Thread(target=main, args=(hook,))
        with httpx.Client() as client:
            before = client.send(stack.request("before"))
            draining.start()
            stack.wait_until_draining()
            after = client.send(stack.request("after"))
        draining.join(20)

    assert "connection" not in before.headers
    assert after.status_code == 200
    assert after.headers["connection"] == "close"
