"""A real Envoy on our rendered configuration, between a scripted sidecar and a scripted provider.

The sidecar's workers run in this process, on an event loop in a thread; tests are plain functions. What admit, meter
and the provider do to a request stands in the request itself: one JSON header, `x-script`.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import subprocess
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
import httpx
from aiohttp import web

from ext_proc import wire
from ext_proc.envoy_config import EnvoySettings, UpstreamAccount, WorkerEndpoint, find_envoy, render
from ext_proc.wire import access_log_service_pb2, core_pb2, health_pb2
from ext_proc.wire.access_log_pb2 import AccessLogType, HTTPAccessLogEntry
from ext_proc.wire.external_processor_pb2 import ProcessingRequest, ProcessingResponse
from ext_proc.wire.processing_mode_pb2 import ProcessingMode

TIMEOUT_SECONDS = 20.0
SCRIPT_HEADER = "x-script"
MAX_MESSAGE_BYTES = 80 << 20
LARGE_ANSWER = b'{"model": "large", "usage": {"prompt_tokens": 3, "completion_tokens": 4}, "padding": "%s"}'


def headers_of(header_map: core_pb2.HeaderMap) -> dict[str, str]:
    """Header name → value, as Envoy sent them."""
    return {header.key: header.raw_value.decode() for header in header_map.headers}


def set_header(key: str, value: str) -> core_pb2.HeaderValueOption:
    """A header to set, over what is there."""
    return core_pb2.HeaderValueOption(header=core_pb2.HeaderValue(key=key, raw_value=value.encode()))


def script_of(message: ProcessingRequest) -> dict[str, Any]:
    """What a test wants to happen to the request whose headers these are."""
    script: dict[str, Any] = json.loads(headers_of(message.request_headers.headers).get(SCRIPT_HEADER, "{}"))
    return script


@dataclass(frozen=True)
class Step:
    """One message that a worker got for a request."""

    hold_id: str
    worker: str
    role: str
    message: ProcessingRequest

    @property
    def name(self) -> str:
        """`admit request_headers`, …"""
        return f"{self.role} {self.message.WhichOneof('request')}"


@dataclass(frozen=True)
class Forwarded:
    """What the provider saw of one request."""

    hold_id: str
    method: str
    path: str
    headers: dict[str, str]
    body_bytes: int


@dataclass(frozen=True)
class Record:
    """One access log record and who got it."""

    worker: str
    entry: HTTPAccessLogEntry

    @property
    def hold_id(self) -> str:
        """The id admit set, or the empty text."""
        return self.text("id")

    @property
    def stream_id(self) -> str:
        """Envoy's own id of the request."""
        return str(self.entry.common_properties.stream_id)

    def text(self, key: str) -> str:
        """A text of the ticket's namespace."""
        namespace = self.entry.common_properties.metadata.filter_metadata.get("tollgate")
        return str(namespace[key]) if namespace is not None and key in namespace else ""

    @property
    def ended(self) -> bool:
        """Whether this is the record of the request's end."""
        return bool(self.entry.common_properties.access_log_type == AccessLogType.DownstreamEnd)


class Mailbox:
    """Values that arrive on one thread and are waited for on another."""

    def __init__(self) -> None:
        self._items: list[Any] = []
        self._changed = threading.Condition()

    def put(self, item: Any) -> None:
        """Add a value."""
        with self._changed:
            self._items.append(item)
            self._changed.notify_all()

    def all(self) -> list[Any]:
        """What has arrived so far."""
        with self._changed:
            return list(self._items)

    def wait(self, wanted: Callable[[Any], bool]) -> Any:
        """The first value that is wanted, now or within the time limit."""
        with self._changed:
            found = self._changed.wait_for(lambda: any(wanted(item) for item in self._items), TIMEOUT_SECONDS)
            assert found, f"nothing wanted arrived among {len(self._items)}"
            return next(item for item in self._items if wanted(item))


@dataclass
class Observed:
    """What the scripted parts saw."""

    records: Mailbox = field(default_factory=Mailbox)
    steps: Mailbox = field(default_factory=Mailbox)
    forwarded: Mailbox = field(default_factory=Mailbox)
    gates: dict[str, asyncio.Event] = field(default_factory=dict)

    def gate(self, hold_id: str) -> asyncio.Event:
        """What a scripted party waits for; `Stack.release` opens it."""
        return self.gates.setdefault(hold_id, asyncio.Event())

    def end_of(self, hold_id: str) -> Record:
        """The end record of one request."""
        record = self.records.wait(lambda record: record.ended and record.hold_id == hold_id)
        assert isinstance(record, Record)
        return record

    def end_of_stream(self, stream_id: str) -> Record:
        """The end record of one request, by Envoy's own id for it."""
        record = self.records.wait(lambda record: record.ended and record.stream_id == stream_id)
        assert isinstance(record, Record)
        return record

    def request(self, hold_id: str) -> Forwarded:
        """What the provider saw of one request."""
        request = self.forwarded.wait(lambda request: request.hold_id == hold_id)
        assert isinstance(request, Forwarded)
        return request

    def steps_of(self, hold_id: str) -> list[str]:
        """The messages that the workers have got so far for one request."""
        return [step.name for step in self.steps.all() if step.hold_id == hold_id]


class ScriptedWorker:
    """One sidecar worker on a Unix socket."""

    def __init__(self, name: str, path: Path, observed: Observed) -> None:
        self.name = name
        self.address = f"unix:{path}"
        self._observed = observed
        self._server: grpc.aio.Server | None = None

    async def start(self) -> None:
        """Listen."""
        self._server = grpc.aio.server(
            options=[("grpc.max_receive_message_length", MAX_MESSAGE_BYTES), ("grpc.so_reuseport", 0)]
        )
        self._server.add_generic_rpc_handlers((self._handlers(),))
        self._server.add_insecure_port(self.address)
        await self._server.start()

    async def stop(self) -> None:
        """Drop every stream at once, as a killed process does."""
        if self._server is not None:
            await self._server.stop(None)
            self._server = None

    def _handlers(self) -> grpc.GenericRpcHandler:
        methods = {
            wire.PROCESS_METHOD: grpc.stream_stream_rpc_method_handler(
                self._process, ProcessingRequest.FromString, ProcessingResponse.SerializeToString
            ),
            wire.STREAM_ACCESS_LOGS_METHOD: grpc.stream_unary_rpc_method_handler(
                self._log,
                access_log_service_pb2.StreamAccessLogsMessage.FromString,
                access_log_service_pb2.StreamAccessLogsResponse.SerializeToString,
            ),
            wire.HEALTH_CHECK_METHOD: grpc.unary_unary_rpc_method_handler(
                self._check, health_pb2.HealthCheckRequest.FromString, health_pb2.HealthCheckResponse.SerializeToString
            ),
        }

        class Handlers(grpc.GenericRpcHandler):
            def service(self, details: Any) -> Any:
                return methods.get(details.method)

        return Handlers()

    async def _check(self, _request: health_pb2.HealthCheckRequest, _context: Any) -> health_pb2.HealthCheckResponse:
        return health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)

    async def _log(self, messages: AsyncIterator[Any], _context: Any) -> Any:
        async for message in messages:
            for entry in message.http_logs.log_entry:
                self._observed.records.put(Record(self.name, entry))
        return access_log_service_pb2.StreamAccessLogsResponse()

    async def _process(self, messages: AsyncIterator[ProcessingRequest], context: Any) -> AsyncIterator[Any]:
        role = dict(context.invocation_metadata()).get("x-role", "")
        answer = self._admit if role == "admit" else self._meter
        async for response in answer(self._observe(role, messages), context):
            yield response

    async def _observe(self, role: str, messages: AsyncIterator[ProcessingRequest]) -> AsyncIterator[ProcessingRequest]:
        hold_id = ""
        async for message in messages:
            if message.HasField("request_headers"):
                hold_id = script_of(message).get("id", "")
            elif role == "meter":
                hold_id = str(message.metadata_context.filter_metadata["tollgate"]["id"])
            self._observed.steps.put(Step(hold_id, self.name, role, message))
            yield message

    async def _admit(self, messages: AsyncIterator[ProcessingRequest], context: Any) -> AsyncIterator[Any]:
        head = await anext(messages)
        script = script_of(head)
        if script.get("admit") == "abort":
            await context.abort(grpc.StatusCode.INTERNAL, "scripted")
        if script.get("admit") == "hang":
            await self._observed.gate(script["id"]).wait()
        response = ProcessingResponse()
        response.dynamic_metadata["tollgate"] = {"id": script["id"], "worker": self.name}
        if script.get("admit") == "refuse-head":
            yield self._refusal(script)
            return
        last = head.request_headers.end_of_stream
        if last:
            self._decide(response, response.request_headers.response, script)
        else:
            response.request_headers.SetInParent()
        yield response
        if last:
            return
        if await anext(messages, None) is None:
            return
        if script.get("admit") == "hang-body":
            await self._observed.gate(script["id"]).wait()
        if script.get("admit") == "refuse":
            yield self._refusal(script)
            return
        response = ProcessingResponse()
        self._decide(response, response.request_body.response, script)
        yield response

    def _refusal(self, script: dict[str, Any]) -> ProcessingResponse:
        response = ProcessingResponse()
        response.immediate_response.status.code = script.get("status", 429)
        response.immediate_response.body = b'{"refused": "by admit"}'
        response.immediate_response.details = script.get("details", "")
        response.immediate_response.headers.set_headers.append(set_header("content-type", "application/json"))
        return response

    def _decide(self, response: ProcessingResponse, common: Any, script: dict[str, Any]) -> None:
        mutation = common.header_mutation
        mutation.set_headers.append(set_header("x-tollgate-cluster", script.get("account", "plain")))
        mutation.set_headers.append(set_header("x-tollgate-meter", script.get("meter", "stream")))
        if "path" in script:
            mutation.set_headers.append(set_header(":path", script["path"]))
        common.clear_route_cache = True
        response.dynamic_metadata["tollgate"] = {"ticket": script.get("ticket", "t")}
        if "answer" in script:
            response.dynamic_metadata["tollgate.answer"] = script["answer"]

    async def _meter(self, messages: AsyncIterator[ProcessingRequest], context: Any) -> AsyncIterator[Any]:
        async for message in messages:
            response = ProcessingResponse()
            if message.HasField("response_headers"):
                wanted = headers_of(message.response_headers.headers).get("x-meter")
                if wanted == "abort":
                    await context.abort(grpc.StatusCode.INTERNAL, "scripted")
                if wanted == "headers only":
                    response.mode_override.response_header_mode = ProcessingMode.SEND
                response.response_headers.SetInParent()
            else:
                response.response_body.SetInParent()
            yield response


class ScriptedProvider:
    """An HTTP/1.1 server that answers as the request's script says."""

    def __init__(self, observed: Observed, tls: ssl.SSLContext | None) -> None:
        self._observed = observed
        self._tls = tls
        self._runner: web.AppRunner | None = None
        self.port = 0

    async def start(self) -> None:
        """Listen on a free port."""
        app = web.Application(client_max_size=MAX_MESSAGE_BYTES)
        app.router.add_route("*", "/{path:.*}", self._serve)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=self._tls)
        await site.start()
        self.port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]  # aiohttp does not offer it

    async def stop(self) -> None:
        """Stop listening."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        script = json.loads(request.headers.get(SCRIPT_HEADER, "{}"))
        size = len(await request.read())
        headers = {name.lower(): value for name, value in request.headers.items()}
        self._observed.forwarded.put(Forwarded(script["id"], request.method, request.path_qs, headers, size))
        headers = dict(script.get("response_headers", {}))
        match script.get("provider"):
            case "reset":
                assert request.transport is not None
                request.transport.abort()
                return web.Response()
            case "silent":
                await self._observed.gate(script["id"]).wait()
                return web.Response()
            case "stream":
                return await self._stream(request, script, headers)
            case "body":
                return web.Response(body=script["body"].encode("latin-1"), headers=headers)
            case "large":
                return web.Response(body=LARGE_ANSWER % (b"x" * script["bytes"]), headers=headers)
            case _:
                return web.json_response(
                    {"from": "provider"}, status=script.get("provider_status", 200), headers=headers
                )

    async def _stream(
        self, request: web.Request, script: dict[str, Any], headers: dict[str, str]
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream", **headers})
        await response.prepare(request)
        for index in range(script.get("chunks", 3)):
            await response.write(f'data: {{"n": {index}}}\n\n'.encode())
        if script.get("pause"):
            await self._observed.gate(script["id"]).wait()
        if script.get("then") == "wait":
            await self._observed.gate(script["id"]).wait()
            await response.write(b"data: [DONE]\n\n")
        if script.get("then") == "reset":
            assert request.transport is not None
            request.transport.abort()
        else:
            await response.write_eof()
        return response


class Loop:
    """An event loop in a thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run to the end; the result, or what was raised."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(TIMEOUT_SECONDS)

    def call(self, function: Callable[[], object]) -> None:
        """Call a function on the loop."""
        self._loop.call_soon_threadsafe(function)

    def close(self) -> None:
        """Cancel what still runs, and stop."""
        self.run(self._cancel_all())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(TIMEOUT_SECONDS)
        self._loop.close()

    async def _cancel_all(self) -> None:
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)


class Envoy:
    """One Envoy process on a rendered configuration, listening on a port of its own choice."""

    def __init__(self, settings: EnvoySettings, directory: Path) -> None:
        config = directory / "envoy.yaml"
        config.write_text(render(settings))
        self.admin_address = str(settings.admin)
        self.log = Mailbox()
        self.process = subprocess.Popen(
            [find_envoy(), "-c", config, "--concurrency", "1", "--disable-hot-restart", "-l", "info"],
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()
        self.log.wait(lambda line: line is None or "starting workers" in line)
        assert self.process.poll() is None, "".join(self.log.all()[-20:-1])

    def _read_log(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as lines:
            for line in lines:
                self.log.put(line)
        self.log.put(None)

    def admin(self, path: str) -> httpx.Response:
        """GET from the admin socket."""
        with httpx.Client(
            transport=httpx.HTTPTransport(uds=self.admin_address.removeprefix("unix:")), timeout=TIMEOUT_SECONDS
        ) as client:
            return client.get(f"http://admin{path}")

    def port(self) -> int:
        """The listener's port."""
        listeners = self.admin("/listeners?format=json").json()["listener_statuses"]
        return int(listeners[0]["local_address"]["socket_address"]["port_value"])

    def stop(self) -> None:
        """Stop the process."""
        self.process.terminate()
        self.process.wait(TIMEOUT_SECONDS)
        self._reader.join(TIMEOUT_SECONDS)


class Stack:
    """Two scripted workers, a scripted provider, and Envoy between them and the client."""

    def __init__(self, *, provider_tls: ssl.SSLContext | None = None, **settings: Any) -> None:
        self.observed = Observed()
        self._loop = Loop()
        self._directory = tempfile.TemporaryDirectory(prefix="tg-")
        directory = Path(self._directory.name)
        self.workers = [ScriptedWorker(name, directory / f"{name}.sock", self.observed) for name in ("w0", "w1")]
        self.provider = ScriptedProvider(self.observed, provider_tls)
        self._loop.run(self.provider.start())
        for worker in self.workers:
            self._loop.run(worker.start())
        scheme = "http" if provider_tls is None else "https"
        base = EnvoySettings(
            workers=tuple(WorkerEndpoint(worker.name, worker.address) for worker in self.workers),
            accounts=(
                UpstreamAccount("plain", f"{scheme}://127.0.0.1:{self.provider.port}"),
                UpstreamAccount("named", f"{scheme}://localhost:{self.provider.port}"),
                UpstreamAccount("nobody", "http://127.0.0.1:1"),
            ),
            listen_port=0,
            admin=f"unix:{directory}/admin.sock",
        )
        self.envoy = Envoy(replace(base, **settings), directory)
        self.port = self.envoy.port()
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=TIMEOUT_SECONDS)

    def post(self, hold_id: str, path: str = "/v1/chat/completions", **kwargs: Any) -> httpx.Response:
        """One request: `script` is what happens to it, `content` its body, `headers` more of those."""
        return self.client.send(self.request(hold_id, path, **kwargs))

    def request(
        self, hold_id: str, path: str = "/v1/chat/completions", *, content: bytes = b"{}", **kwargs: Any
    ) -> httpx.Request:
        """The same, to be sent by the test."""
        script = {"id": hold_id, **kwargs.pop("script", {})}
        headers = {SCRIPT_HEADER: json.dumps(script), **kwargs.pop("headers", {})}
        return self.client.build_request("POST", path, content=content, headers=headers)

    def open(self, hold_id: str, **kwargs: Any) -> httpx.Response:
        """The same, the answer being read by the test; closed with the stack."""
        return self.client.send(self.request(hold_id, **kwargs), stream=True)

    def send_raw(self, request: httpx.Request, path: bytes) -> httpx.Response:
        """Send a request to a path that the client library would write another way."""
        request.extensions["target"] = path
        return self.client.send(request)

    @contextmanager
    def stream(self, hold_id: str, **kwargs: Any) -> Iterator[httpx.Response]:
        """The same, as a client that leaves at the end of the block, connection and all."""
        with httpx.Client(timeout=TIMEOUT_SECONDS) as client:
            yield client.send(self.request(hold_id, **kwargs), stream=True)

    def abandon(self, request: httpx.Request, *, once: Callable[[], object]) -> None:
        """Send a request, and close the connection as soon as `once` returns, without reading an answer."""
        with self._connect(request, request.read()):
            once()

    def send_part(self, request: httpx.Request, content: bytes) -> str:
        """Send a request with only a part of its body; what comes back until the connection closes."""
        with self._connect(request, content) as connection, connection.makefile("rb") as answer:
            return answer.read().decode()

    def _connect(self, request: httpx.Request, content: bytes) -> socket.socket:
        head = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
        line = f"{request.method} {request.url.raw_path.decode()} HTTP/1.1\r\n"
        connection = socket.create_connection(("127.0.0.1", self.port), TIMEOUT_SECONDS)
        connection.sendall(f"{line}{head}\r\n".encode() + content)
        return connection

    def wait_until_unhealthy(self, cluster: str, worker: ScriptedWorker) -> None:
        """Return when Envoy's own check has found a worker dead."""
        path = worker.address.removeprefix("unix:")
        failed = f"{cluster}::{path}::health_flags::/failed_active_hc"
        self._poll(lambda: failed in self.envoy.admin("/clusters").text)

    def wait_until_disconnected(self, cluster: str) -> None:
        """Return when Envoy has noticed that a cluster's only connection is closed."""
        stat = f"cluster.{cluster}.upstream_cx_active"
        self._poll(lambda: self.envoy.admin(f"/stats?filter=^{stat}$").text == f"{stat}: 0\n")

    def wait_until_refused(self) -> None:
        """Return when Envoy takes no new connection."""
        self._poll(self._refused)

    def _refused(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), TIMEOUT_SECONDS).close()
        except ConnectionError:  # refused, or reset where the listener closed between the two
            return True
        return False

    def wait_until_overloaded(self) -> None:
        """Return when Envoy accepts no more requests, for want of memory."""
        stat = "overload.envoy.overload_actions.stop_accepting_requests.active"
        self._poll(lambda: self.envoy.admin(f"/stats?filter=^{stat}$").text == f"{stat}: 1\n")

    def wait_until_draining(self) -> None:
        """Return when Envoy has been told that it will go away."""
        self._poll(lambda: self.envoy.admin("/ready").text == "DRAINING\n")

    def _poll(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while not condition():
            assert time.monotonic() < deadline, "what was waited for did not happen"

    def release(self, hold_id: str) -> None:
        """Let a party that waits go on."""
        self._loop.call(self.observed.gate(hold_id).set)

    def admitted_by(self, hold_id: str) -> tuple[ScriptedWorker, ScriptedWorker]:
        """The worker that admitted a request, and the other one."""
        step = self.observed.steps.wait(lambda step: step.hold_id == hold_id and step.role == "admit")
        first, second = self.workers
        return (first, second) if first.name == step.worker else (second, first)

    def stop_worker(self, worker: ScriptedWorker) -> None:
        """A worker dies with all its streams."""
        self._loop.run(worker.stop())

    def close(self) -> None:
        """Stop everything, in the order of a shutdown."""
        self.client.close()
        self.envoy.stop()
        for worker in self.workers:
            self._loop.run(worker.stop())
        self._loop.run(self.provider.stop())
        self._loop.close()
        self._directory.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
