"""What one request costs a worker without gRPC: admission and the end record, with everything on and a real Redis.

    python bench/hot_path.py [--requests N] [--profile]

The worker's own handlers run in this process; in place of a gRPC stream they get an object that hands them the messages
which Envoy would send. Times are the CPU time of this process, the least of several batches; the number of Python calls
per request comes with them, because it does not depend on what else the machine does. `--profile` says where they are.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import json
import os
import pstats
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

os.environ["PROMETHEUS_MULTIPROC_DIR"] = tempfile.mkdtemp(prefix="tg-hot-")  # before prometheus_client is imported

import grpc
import uvloop

from bench.gateways.measure import BODY
from bench.gateways.subjects import KEY, TAGS, policies
from bench.processes import redis_server
from ext_proc.exchange.ticket import NAMESPACE, USAGE_NAMESPACE
from ext_proc.server.access_log import AccessLog
from ext_proc.server.admit import Admit
from ext_proc.server.settings import Metering, WorkerSettings
from ext_proc.server.state import Worker
from ext_proc.server.worker import assemble
from ext_proc.wire import access_log_pb2 as log_pb
from ext_proc.wire import access_log_service_pb2 as service_pb
from ext_proc.wire import external_processor_pb2 as pb

BATCHES = 8
IN_FLIGHT = 16


class Exchange:
    """A stream that hands out these messages and keeps what is written."""

    def __init__(self, messages: list[object]) -> None:
        self._messages = iter([*messages, grpc.aio.EOF])
        self.written: list[bytes] = []

    async def read(self) -> object:
        """The next message, parsed anew, as from the wire."""
        message = next(self._messages)
        return message() if callable(message) else message

    async def write(self, answer: bytes) -> None:
        """Keep it."""
        self.written.append(answer)


def admission_messages() -> list[object]:
    """Head and body of a plain chat completion."""
    head = pb.ProcessingRequest()
    headers = {
        ":method": "POST",
        ":path": "/v1/chat/completions",
        ":authority": "127.0.0.1:10000",
        "content-type": "application/json",
        "authorization": f"Bearer {KEY}",
        "x-tfy-metadata": json.dumps(TAGS, separators=(",", ":")),
        "x-request-id": "8a3b1e4c-5d0f-4ad0-9a70-0d5b1c6a0c11",
    }
    for name, value in headers.items():
        head.request_headers.headers.headers.add(key=name, raw_value=value.encode())
    body = pb.ProcessingRequest()
    body.request_body.body = json.dumps(BODY).encode()
    body.request_body.end_of_stream = True
    return [partial(pb.ProcessingRequest.FromString, one.SerializeToString()) for one in (head, body)]


def end_record(answer: bytes) -> log_pb.HTTPAccessLogEntry:
    """What Envoy logs at the end of a request that was answered so at admission."""
    written = pb.ProcessingResponse.FromString(answer).dynamic_metadata
    entry = log_pb.HTTPAccessLogEntry()
    common = entry.common_properties
    common.access_log_type = log_pb.DownstreamEnd
    common.metadata.filter_metadata[NAMESPACE].CopyFrom(written.fields[NAMESPACE].struct_value)
    usage = {"usage.prompt_tokens": 256, "usage.completion_tokens": 16, "model": "gpt-4o-mini"}
    common.metadata.filter_metadata[USAGE_NAMESPACE].update(usage)
    common.duration.FromMilliseconds(40)
    common.time_to_last_upstream_tx_byte.FromMilliseconds(3)
    common.time_to_first_upstream_rx_byte.FromMilliseconds(30)
    common.upstream_wire_bytes_received = 1_500
    entry.response.response_code.value = 200
    return entry


async def batch(worker: Worker, log: AccessLog, requests: int) -> float:
    """CPU seconds of so many requests, some in flight at a time; making the end records is not counted."""
    admit, messages = Admit(worker), admission_messages()
    used = 0.0
    for _ in range(requests // IN_FLIGHT):
        streams = [Exchange(messages) for _ in range(IN_FLIGHT)]
        started = time.process_time()
        await asyncio.gather(*(admit.serve(stream) for stream in streams))
        used += time.process_time() - started
        records = service_pb.StreamAccessLogsMessage()
        records.http_logs.log_entry.extend(end_record(stream.written[-1]) for stream in streams)
        raw = records.SerializeToString()
        started = time.process_time()
        await log.serve(Exchange([partial(service_pb.StreamAccessLogsMessage.FromString, raw)]))
        await worker.settler.drain()
        used += time.process_time() - started
    return used


async def measure(redis_url: str, directory: Path, requests: int, *, profile: bool) -> None:
    """Print it."""
    (directory / "policies").mkdir()
    (directory / "policies" / "bench.yaml").write_text(policies(50))
    settings = WorkerSettings(
        name="w0",
        listen="unix:unused",
        policies=str(directory / "policies"),
        redis_url=redis_url,
        state_dir=str(directory),
        metrics_dir=os.environ["PROMETHEUS_MULTIPROC_DIR"],
        metering=Metering.NATIVE,
    )
    worker = await assemble(settings)
    log = AccessLog(worker)
    await batch(worker, log, requests)
    times = [await batch(worker, log, requests) for _ in range(BATCHES)]
    least, most = (seconds / requests * 1e6 for seconds in (min(times), max(times)))
    print(f"µs per request: {least:.0f}, the least of {BATCHES} batches (most {most:.0f})")
    profiler = cProfile.Profile()
    profiler.enable()
    await batch(worker, log, requests)
    profiler.disable()
    statistics = pstats.Stats(profiler)
    print(f"Python calls per request: {statistics.total_calls / requests:.0f}")
    if profile:
        statistics.strip_dirs().sort_stats("tottime").print_stats(45)
        statistics.sort_stats("cumulative").print_stats(70)
    await worker.ledger.close()


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=1_024, help="per batch (default %(default)s)")
    parser.add_argument("--profile", action="store_true", help="where the calls are")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tg-hot-") as directory, redis_server(Path(directory)) as url:
        uvloop.run(measure(url, Path(directory), args.requests, profile=args.profile))


if __name__ == "__main__":
    main()
