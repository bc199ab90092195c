"""One worker process: the gRPC server with its three roles, the reaper, and the drain.

`python -m ext_proc.server NAME` prints `worker <name> ready` when it serves. SIGTERM drains:
health says NOT_SERVING, Envoy moves on, live streams finish and settle, then the process exits.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import sys
from collections.abc import Awaitable, Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Final

import grpc
import uvloop

from ext_proc.identity.directory import Directory
from ext_proc.identity.identities import Identities
from ext_proc.identity.server_secret import server_secret
from ext_proc.identity.store import IdentityStore
from ext_proc.ledger.errors import LayoutError, StoreError
from ext_proc.ledger.layout import RENEW_SECONDS, claim
from ext_proc.ledger.options import LedgerOptions
from ext_proc.ledger.realms_ledger import open_ledger
from ext_proc.policy.watch import Watcher
from ext_proc.pricing.catalogue_file import CatalogueWatch
from ext_proc.server.access_log import AccessLog
from ext_proc.server.admit import Admit
from ext_proc.server.batch_memory import BatchMemory
from ext_proc.server.content_log import ContentLog
from ext_proc.server.credentials import Credentials
from ext_proc.server.health import Health
from ext_proc.server.learning import REFRESH_SECONDS as LEARNING_SECONDS
from ext_proc.server.learning import Learning
from ext_proc.server.meter import Meter
from ext_proc.server.outage import Outage
from ext_proc.server.policies import identities_of, terms_of, watch_policies
from ext_proc.server.scorer import Scorers, load_client
from ext_proc.server.settings import WorkerSettings
from ext_proc.server.settler import Settler
from ext_proc.server.state import Worker
from ext_proc.server.streams import LogStream, Stream
from ext_proc.server.target_health import REFRESH_SECONDS, TargetHealth
from ext_proc.server.try_attempt import TryAttempt
from ext_proc.telemetry.logs import append_stderr_to, configure
from ext_proc.telemetry.metrics import Metrics
from ext_proc.wire import access_log_service_pb2 as service_pb
from ext_proc.wire import external_processor_pb2 as pb
from ext_proc.wire import health_pb2

_LOG = logging.getLogger(__name__)

MAX_MESSAGE_BYTES: Final = 80 * 1024 * 1024
"""Above Envoy's buffer limit with room for headers; grpc's own default of 4 MiB would refuse a large body."""

DRAIN_NOTICE_SECONDS: Final = 1.5
"""How long the health check is given to notice before the server stops taking streams: Envoy asks every second."""

REAP_INTERVAL_SECONDS: Final = 1.0
REAP_LIMIT: Final = 200
UPKEEP_INTERVAL_SECONDS: Final = 600.0
IDENTITY_POLL_SECONDS: Final = 0.25

_Role = Callable[[Stream], Awaitable[None]]


def run(told: str) -> None:
    """Run one worker until SIGTERM. `told`: its settings, as `WorkerSettings.to_json` writes them."""
    settings = WorkerSettings.from_json(told)
    if settings.log is not None:
        append_stderr_to(settings.log)
    configure()
    uvloop.run(serve(settings))


async def serve(settings: WorkerSettings) -> None:
    """Serve until SIGTERM."""
    worker = await assemble(settings)
    gc.freeze()  # what is there now stays: the collector need not walk it
    gc.enable()
    health, log = Health(), AccessLog(worker)
    server = grpc.aio.server(options=_options())
    server.add_generic_rpc_handlers((_processor(worker), _access_log(log), _health(health)))
    server.add_insecure_port(settings.listen)
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    await server.start()
    asked_to_reload = asyncio.Event()
    loop.add_signal_handler(signal.SIGHUP, asked_to_reload.set)
    work = (
        _reap(worker),
        _keep_up(worker),
        watch_policies(worker, asked_to_reload),
        _watch_identities(worker),
        worker.outage.run(),
        _follow_targets(worker),
        _learn(worker),
        _keep_layout(worker, stopping),
    )
    chores = [asyncio.create_task(chore) for chore in work]
    sys.stdout.write(f"worker {settings.name} ready\n")
    sys.stdout.flush()
    await stopping.wait()
    await _drain(worker, health, log, server)
    for chore in chores:
        chore.cancel()
    await asyncio.gather(*chores, return_exceptions=True)
    worker.outage.close()
    await asyncio.to_thread(worker.content_log.close)
    await worker.scorers.close()
    await worker.ledger.close()


async def assemble(settings: WorkerSettings) -> Worker:
    """What a worker holds, before anything is served."""
    watcher = Watcher(settings.policies)
    snapshot = watcher.snapshot
    metrics = Metrics(metric_labels=snapshot.settings.metric_labels, metrics_dir=Path(settings.metrics_dir))
    metrics.policy_loaded(snapshot.version, ok=True)
    own_dir = Path(settings.state_dir) / "workers" / settings.name
    ledger = open_ledger(settings.redis_url, snapshot.settings.realms, LedgerOptions(ring_dir=own_dir))
    await ledger.start()
    try:
        await claim(ledger.read, snapshot.settings.realms)
    except StoreError:
        _LOG.warning("Redis does not answer yet: whether others split the ledger alike is asked again")
    outage = Outage(ledger, metrics, own_dir)
    secret = server_secret(Path(settings.state_dir))
    directory = Directory(IdentityStore(ledger.read, secret))
    await directory.refresh()
    catalogue = CatalogueWatch(Path(settings.catalogue)) if settings.catalogue else None
    identities = Identities.of(snapshot, directory.records, secret)
    terms = terms_of(settings, snapshot, identities, catalogue.catalogue if catalogue else None)
    if terms.savings.asks_scorers:
        load_client()
    targets = TargetHealth(ledger.read, terms.virtual_models.targets)
    learning = Learning(ledger.read)
    settled = (targets.settled, learning.settled)
    return Worker(
        settings=settings,
        terms=terms,
        targets=targets,
        learning=learning,
        scorers=Scorers(metrics),
        directory=directory,
        watcher=watcher,
        catalogue=catalogue,
        ledger=ledger,
        settler=Settler(ledger, metrics, outage, settings.hold_lease_seconds, settled=settled),
        outage=outage,
        metrics=metrics,
        credentials=Credentials(),
        memory=BatchMemory(ledger.read),
        content_log=ContentLog(Path(settings.state_dir) / "content" / f"{settings.name}.jsonl", metrics),
    )


async def _follow_targets(worker: Worker) -> None:
    """Share with the other workers how the targets are doing; a silent Redis leaves what was last known."""
    while True:
        await asyncio.sleep(REFRESH_SECONDS)
        worker.targets.follow(worker.terms.virtual_models.targets)
        health = await worker.targets.refresh(worker.now_us())
        if health is not None:
            worker.terms = replace(worker.terms, health=health)


async def _keep_layout(worker: Worker, stopping: asyncio.Event) -> None:
    """Stop serving where others split the ledger differently, which Redis was not there to say at the start."""
    while True:
        await asyncio.sleep(RENEW_SECONDS)
        try:
            await claim(worker.ledger.read, worker.terms.snapshot.settings.realms)
        except StoreError:
            continue
        except LayoutError as error:
            _LOG.critical("this worker stops: %s", error)
            stopping.set()
            return


async def _learn(worker: Worker) -> None:
    """Share with the other workers what answers teach of their models; a silent Redis leaves what was last known."""
    while True:
        await asyncio.sleep(LEARNING_SECONDS)
        calibration = await worker.learning.refresh(worker.now_us())
        if calibration is not None:
            worker.terms = replace(worker.terms, calibration=calibration)


async def _watch_identities(worker: Worker) -> None:
    """Put changed keys, teams and tenants in force within a second; a silent Redis changes nothing.

    Requests in flight keep the terms they began with.
    """
    while True:
        await asyncio.sleep(IDENTITY_POLL_SECONDS)
        if await worker.directory.refresh():
            worker.terms = replace(worker.terms, identities=identities_of(worker, worker.terms.snapshot))
        await worker.directory.append_refusals(worker.settings.name)


async def _drain(worker: Worker, health: Health, log: AccessLog, server: grpc.aio.Server) -> None:
    """Let Envoy move on, live streams finish, and everything settle."""
    health.stop_serving()
    await asyncio.sleep(DRAIN_NOTICE_SECONDS)
    await server.stop(grace=worker.settings.drain_seconds)
    log.flush()
    await worker.settler.drain()
    await worker.learning.refresh(worker.now_us())


async def _reap(worker: Worker) -> None:
    """Expire holds whose lease ran out. Every worker does it: any replica may, and repeating changes nothing."""
    while True:
        await asyncio.sleep(REAP_INTERVAL_SECONDS)
        worker.metrics.ledger_counters(asdict(worker.ledger.counters))
        expired = await worker.ledger.expire(REAP_LIMIT)
        if expired:
            worker.metrics.holds_expired(expired)
            _LOG.warning("%d holds expired and were charged in full: their end was never recorded", expired)


async def _keep_up(worker: Worker) -> None:
    """Look after the store: say what is unsafe about its settings, and trim the journal past its age and size."""
    while True:
        health = await worker.ledger.health()
        if health is not None:
            worker.metrics.unsafe_settings(len(health.warnings))
            for warning in health.warnings:
                _LOG.warning("Redis is not set up safely: %s", warning)
            if dropped := await worker.ledger.trim_journal():
                _LOG.warning("%d journal entries past their age or the journal's size were dropped", dropped)
        await asyncio.sleep(UPKEEP_INTERVAL_SECONDS)


def _processor(worker: Worker) -> grpc.GenericRpcHandler:
    roles: dict[str, _Role] = {
        "admit": Admit(worker).serve,
        "meter": Meter(worker).serve,
        "try": TryAttempt(worker).serve,
    }

    async def process(_: object, stream: Stream) -> None:
        role = next(
            (roles.get(str(value)) for key, value in stream.invocation_metadata() or () if key == "x-role"), None
        )
        if role is None:
            await stream.abort(grpc.StatusCode.INVALID_ARGUMENT, "x-role must be admit, meter or try")
            return
        await role(stream)

    # No serializer: the roles write bytes, most of them constants.
    method: grpc.RpcMethodHandler[pb.ProcessingRequest, bytes] = grpc.stream_stream_rpc_method_handler(
        process, request_deserializer=pb.ProcessingRequest.FromString
    )
    return grpc.method_handlers_generic_handler("envoy.service.ext_proc.v3.ExternalProcessor", {"Process": method})


def _access_log(log: AccessLog) -> grpc.GenericRpcHandler:
    async def stream_access_logs(_: object, stream: LogStream) -> service_pb.StreamAccessLogsResponse:
        return await log.serve(stream)

    method = grpc.stream_unary_rpc_method_handler(
        stream_access_logs,
        request_deserializer=service_pb.StreamAccessLogsMessage.FromString,
        response_serializer=service_pb.StreamAccessLogsResponse.SerializeToString,
    )
    name = "envoy.service.accesslog.v3.AccessLogService"
    return grpc.method_handlers_generic_handler(name, {"StreamAccessLogs": method})


def _health(health: Health) -> grpc.GenericRpcHandler:
    request, response = health_pb2.HealthCheckRequest.FromString, health_pb2.HealthCheckResponse.SerializeToString
    check = grpc.unary_unary_rpc_method_handler(
        health.check, request_deserializer=request, response_serializer=response
    )
    watch = grpc.unary_stream_rpc_method_handler(
        health.watch, request_deserializer=request, response_serializer=response
    )
    return grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": check, "Watch": watch})


def _options() -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.so_reuseport", 0),  # two workers on one address would be a mistake, not a plan
    ]
