"""Goal: wherever a worker dies on the way of a request that fails over, each attempt ends once and the books balance.

Method: a worker process is handed, by its own roles, what Envoy would hand it: the admission, two attempts, the end
record. It kills itself at a named step, just before or after the answer is written; another worker reaps.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
import yaml

from ext_proc.exchange.chain import TRIED_NAMESPACE
from ext_proc.exchange.ticket import USAGE_NAMESPACE
from ext_proc.ledger.interface import Basis
from ext_proc.server.access_log import AccessLog
from ext_proc.server.admit import Admit
from ext_proc.server.settings import Metering, WorkerSettings
from ext_proc.server.state import Worker
from ext_proc.server.try_attempt import TryAttempt
from ext_proc.server.worker import assemble
from ext_proc.telemetry.environment import worker_environment
from ext_proc.wire import access_log_pb2 as log_pb
from ext_proc.wire import access_log_service_pb2 as service_pb
from ext_proc.wire import external_processor_pb2 as pb
from tests.ledger_kit import connected, until

pytestmark = [pytest.mark.crash, pytest.mark.redis]

ROOT = Path(__file__).parent.parent.parent
STEPS = {
    # where the worker dies: how each attempt has ended once the leases have
    "admission held": [Basis.EXPIRED],
    "admission answered": [Basis.EXPIRED],
    "attempt 1 answered": [Basis.EXPIRED],
    "attempt 2 held": [Basis.RELEASED, Basis.EXPIRED],
    "attempt 2 answered": [Basis.RELEASED, Basis.EXPIRED],
    "end settled": [Basis.RELEASED, Basis.REPORTED],
}
HELD_NANODOLLARS = 100_000  # of 100 output tokens; the prompt comes on top
PRICE = {"per_1000_tokens": {"input": 0.001, "output": 0.001}}
POLICIES: list[dict[str, Any]] = [
    {
        "name": "providers",
        "type": "gateway-provider-config",
        "accounts": [
            {"name": name, "provider": "openai", "models": [{"name": "small", "cost": PRICE}]}
            for name in ("one", "two")
        ],
    },
    {
        "name": "routing",
        "type": "gateway-load-balancing-config",
        "rules": [
            {
                "id": "smart",
                "type": "priority-based-routing",
                "when": {"models": ["smart"]},
                "load_balance_targets": [
                    {"target": "one/small", "priority": 0},
                    {"target": "two/small", "priority": 1},
                ],
            }
        ],
    },
    {
        "name": "budgets",
        "type": "gateway-budget-config",
        "rules": [{"id": "all", "when": {}, "limit_to": 10, "unit": "cost_per_month"}],
    },
]


class Envoys:
    """Envoy's side of a stream: hands out messages, takes answers, and may be where the worker dies."""

    def __init__(self, messages: list[Any], name: str, step: str) -> None:
        self._messages = iter([*messages, grpc.aio.EOF])
        self._name = name
        self._step = step
        self._left = sum(isinstance(message, pb.ProcessingRequest) for message in messages)
        self.answer = pb.ProcessingResponse()
        self.noted: list[pb.ProcessingResponse] = []

    async def read(self) -> object:
        """The next message."""
        return next(self._messages)

    async def write(self, answer: bytes) -> None:
        """The last answer is the one that ends the role."""
        self._left -= 1
        if not self._left:
            dies(f"{self._name} held", self._step)
        self.noted.append(pb.ProcessingResponse.FromString(answer))
        if not self._left:
            dies(f"{self._name} answered", self._step)

    async def abort(self, code: grpc.StatusCode, details: str) -> None:
        """A role that fails is a test that fails."""
        raise AssertionError(f"{code}: {details}")


def dies(here: str, step: str) -> None:
    """The end of this process, without a goodbye, if it is to die here."""
    if here == step:
        os._exit(137)


def asked(metadata: log_pb.HTTPAccessLogEntry) -> list[pb.ProcessingRequest]:
    """Head and body of the request, with the metadata that earlier answers have left."""
    head, body = pb.ProcessingRequest(), pb.ProcessingRequest()
    tags = {"repo": "core"}
    headers = {":method": "POST", ":path": "/v1/chat/completions", "content-type": "application/json"}
    for name, value in {**headers, "x-tfy-metadata": json.dumps(tags)}.items():
        head.request_headers.headers.headers.add(key=name, raw_value=value.encode())
    head.metadata_context.CopyFrom(metadata.common_properties.metadata)
    words = {"model": "smart", "max_tokens": 100, "messages": [{"role": "user", "content": "hello"}]}
    body.request_body.body = json.dumps(words).encode()
    body.request_body.end_of_stream = True
    return [head, body]


async def go(settings: WorkerSettings, step: str) -> None:
    """The request, up to the step at which this process dies."""
    worker = await assemble(settings)
    entry = log_pb.HTTPAccessLogEntry()
    await role(Admit(worker).serve, Envoys(list(asked(entry)), "admission", step), entry)
    for number in (1, 2):
        messages = asked(entry)
        attributes = messages[0].attributes["envoy.filters.http.ext_proc"]
        attributes.fields["upstream.request_attempt_count"].number_value = number
        await role(TryAttempt(worker).serve, Envoys(list(messages), f"attempt {number}", step), entry)
        metadata = entry.common_properties.metadata.filter_metadata
        metadata[TRIED_NAMESPACE].fields["status"].string_value = "503"
    await end(worker, entry)
    dies("end settled", step)


async def role(serve: Callable[[Any], Any], stream: Envoys, entry: log_pb.HTTPAccessLogEntry) -> None:
    """One role to its end; what it notes stays with the request."""
    await serve(stream)
    for answer in stream.noted:
        for namespace, value in answer.dynamic_metadata.fields.items():
            kept = entry.common_properties.metadata.filter_metadata[namespace]
            for name, field in value.struct_value.fields.items():
                kept.fields[name].CopyFrom(field)


async def end(worker: Worker, entry: log_pb.HTTPAccessLogEntry) -> None:
    """The record of the end: the second attempt was answered with usage."""
    common = entry.common_properties
    common.access_log_type = log_pb.DownstreamEnd
    usage: dict[str, Any] = {"usage.prompt_tokens": 10, "usage.completion_tokens": 20, "model": "small"}
    common.metadata.filter_metadata[USAGE_NAMESPACE].update(usage)
    common.time_to_last_upstream_tx_byte.FromMilliseconds(3)
    common.time_to_first_upstream_rx_byte.FromMilliseconds(30)
    common.upstream_wire_bytes_received = 1_500
    entry.response.response_code.value = 200
    records = service_pb.StreamAccessLogsMessage()
    records.http_logs.log_entry.append(entry)
    log = AccessLog(worker)
    await log.serve(cast("Any", Envoys([records], "end", "")))
    log.flush()  # else it waits for meter to settle first
    await worker.settler.drain()


@pytest.mark.parametrize("step", STEPS)
def test_worker_that_dies_in_a_failover_leaves_balanced_books(step: str, redis_url: str, tmp_path: Path) -> None:
    """After the reaper each attempt has ended once, the abandoned one at its full hold, and nothing is held."""
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "all.yaml").write_text(yaml.safe_dump_all(POLICIES), encoding="utf-8")
    settings = WorkerSettings(
        name="w0",
        listen="unix:unused",
        policies=str(tmp_path / "policies"),
        redis_url=redis_url,
        state_dir=str(tmp_path),
        metrics_dir=str(tmp_path),
        metering=Metering.NATIVE,
        hold_lease_seconds=1,
    )
    environment = {**os.environ, **worker_environment(tmp_path), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, __file__, settings.to_json(), step]
    died = subprocess.run(command, cwd=ROOT, env=environment, check=False, timeout=120, capture_output=True, text=True)
    assert died.returncode == 137, died.stderr

    async def reap() -> None:
        async with connected(redis_url) as ledger:

            async def all_ended() -> bool:
                await ledger.expire(10)
                return await ledger.open_holds() == 0

            await until(all_ended)
            (balance,), _ = await ledger.balances(rule=None, limit=2, cursor="")
            journal = await ledger.journal(10)
            assert balance.held == 0
            ends = sorted(
                (str(entry["hold_id"]), str(entry["basis"]), entry["charge_nanodollars"]) for entry in journal
            )
            assert [basis for _, basis, _ in ends] == [str(basis) for basis in STEPS[step]]
            assert [hold_id[-2:] for hold_id, _, _ in ends] == [".1", ".2"][: len(ends)]
            charges = [int(str(charge)) for _, _, charge in ends]
            assert sum(charges) == balance.spent
            if ends[-1][1] == Basis.EXPIRED:
                assert charges[-1] > HELD_NANODOLLARS
            else:
                assert charges[-1] == 30 * 1_000

    asyncio.run(reap())


if __name__ == "__main__":
    asyncio.run(go(WorkerSettings.from_json(sys.argv[1]), sys.argv[2]))
