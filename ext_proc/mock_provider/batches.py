"""The batch APIs of OpenAI (files and batches) and Anthropic (message batches), played in memory.

A batch is worked off when a test says so: `POST /mock/batches/<id>/end`, with how many of its requests are answered
(the rest is cancelled or expired, as its provider would say). Until then it is in progress. Each answer is what the
same request would get by itself, with the usage of the header `x-mock-usage` of the call that made the batch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final

import orjson

from ext_proc.mock_provider.answer import Answer, Piece, json_answer
from ext_proc.mock_provider.behavior import Behavior
from ext_proc.mock_provider.counts import counts_for
from ext_proc.mock_provider.errors import MockRequestError
from ext_proc.mock_provider.shape import CREATED, Call, Shape

_TIME: Final = "2026-01-01T00:00:00Z"
_PART: Final = re.compile(rb'name="([^"]*)"[^\r\n]*(?:\r\n[^\r\n]+)*\r\n\r\n(.*)', re.DOTALL)
_OPENAI_BATCH: Final = re.compile(r"/v1/batches/([^/]+)(/cancel)?")
_OPENAI_FILE: Final = re.compile(r"/v1/files/([^/]+)(/content)?")
_ANTHROPIC_BATCH: Final = re.compile(r"/v1/messages/batches/([^/]+)(/cancel|/results)?")


@dataclass(slots=True)
class _Batch:
    """One batch. `requests` are (custom id, document)."""

    id: str
    shape: Shape
    requests: list[tuple[str, dict[str, object]]]
    usage: str | None  # the header `x-mock-usage` of the call that made it
    file: str = ""  # of OpenAI: its input
    endpoint: str = ""
    cancelled: bool = False
    answered: int | None = None  # known once it has ended
    results: bytes = b""


@dataclass(slots=True)
class Batches:
    """Files and batches of one mock provider, by id."""

    shape_at: Callable[[str], Shape]  # who answers at a path
    _files: dict[str, bytes] = field(default_factory=dict)
    _batches: dict[str, _Batch] = field(default_factory=dict)

    def answer(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Answer | None:
        """The answer to a call of a batch API, None where it is none."""
        usage = headers.get("x-mock-usage")
        try:
            if (method, path) == ("POST", "/v1/files"):
                return self._upload(headers.get("content-type", ""), body)
            if (method, path) == ("POST", "/v1/batches"):
                return self._create(orjson.loads(body), usage)
            if (method, path) == ("POST", "/v1/messages/batches"):
                return self._create_inline(orjson.loads(body), usage)
            return self._about(method, path)
        except (KeyError, TypeError, ValueError, MockRequestError) as error:
            return _error(HTTPStatus.BAD_REQUEST, f"cannot be read: {error!r}")

    def end(self, batch_id: str, answered: int | None, status: int) -> Answer:
        """Work a batch off. `answered` None: all its requests; each gets this status."""
        batch = self._batches.get(batch_id)
        if batch is None:
            return _error(HTTPStatus.NOT_FOUND, f"no batch {batch_id}")
        batch.answered = len(batch.requests) if answered is None else answered
        lines = [self._line(batch, index, status) for index in range(len(batch.requests))]
        batch.results = b"".join(orjson.dumps(line) + b"\n" for line in lines if line is not None)
        if batch.file and batch.results:
            self._files[f"{batch.file}-output"] = batch.results
        return json_answer(self._object(batch))

    def _upload(self, content_type: str, body: bytes) -> Answer:
        boundary = content_type.partition("boundary=")[2].strip('"').encode()
        found = (_PART.search(part) for part in body.split(b"--" + boundary))
        parts: dict[bytes, bytes] = {match[1]: match[2] for match in found if match}
        name = f"file-{len(self._files) + 1:06d}"
        self._files[name] = parts[b"file"].removesuffix(b"\r\n")
        return json_answer(self._file(name))

    def _file(self, name: str) -> dict[str, object]:
        return {
            "id": name,
            "object": "file",
            "bytes": len(self._files[name]),
            "created_at": CREATED,
            "filename": "requests.jsonl",
            "purpose": "batch",
            "status": "processed",
        }

    def _create(self, document: Mapping[str, object], usage: str | None) -> Answer:
        name = str(document["input_file_id"])
        lines = [orjson.loads(line) for line in self._files[name].splitlines() if line.strip()]
        requests = [(str(line["custom_id"]), line["body"]) for line in lines]
        endpoint = str(document["endpoint"])
        batch_id = f"batch_{len(self._batches) + 1:06d}"
        batch = _Batch(batch_id, self.shape_at(endpoint), requests, usage, file=name, endpoint=endpoint)
        self._batches[batch.id] = batch
        return json_answer(self._object(batch))

    def _create_inline(self, document: Mapping[str, object], usage: str | None) -> Answer:
        entries = document["requests"]
        if not isinstance(entries, list):
            raise MockRequestError("requests is not a list")
        requests = [(str(entry["custom_id"]), entry["params"]) for entry in entries]
        batch_id = f"msgbatch_{len(self._batches) + 1:06d}"
        batch = _Batch(batch_id, self.shape_at("/v1/messages"), requests, usage)
        self._batches[batch.id] = batch
        return json_answer(self._object(batch))

    def _about(self, method: str, path: str) -> Answer | None:
        if match := _OPENAI_FILE.fullmatch(path):
            return self._about_file(method, match[1], content=match[2] is not None)
        match = _OPENAI_BATCH.fullmatch(path) or _ANTHROPIC_BATCH.fullmatch(path)
        if match is None or match[1] == "batches":
            return None
        batch = self._batches.get(match[1])
        if batch is None:
            return _error(HTTPStatus.NOT_FOUND, f"no batch {match[1]}")
        if match[2] == "/cancel":
            batch.cancelled = True
        if match[2] == "/results":
            return _lines(batch.results) if batch.answered is not None else _error(HTTPStatus.NOT_FOUND, "not ended")
        if method == "DELETE":
            del self._batches[batch.id]
            return json_answer({"id": batch.id, "type": "message_batch_deleted"})
        return json_answer(self._object(batch))

    def _about_file(self, method: str, name: str, *, content: bool) -> Answer:
        if name not in self._files:
            return _error(HTTPStatus.NOT_FOUND, f"no file {name}")
        if content:
            return _lines(self._files[name])
        if method == "DELETE":
            del self._files[name]
            return json_answer({"id": name, "object": "file", "deleted": True})
        return json_answer(self._file(name))

    def _line(self, batch: _Batch, index: int, status: int) -> dict[str, object] | None:
        """One line of the results; OpenAI's file has none for requests that were not answered."""
        custom_id, document = batch.requests[index]
        answered = index < (batch.answered or 0)
        if not answered:
            if batch.file:
                return None
            return {"custom_id": custom_id, "result": {"type": "canceled" if batch.cancelled else "expired"}}
        counts = counts_for(batch.usage, document, batch.shape.output_limit(document))
        is_error = status != HTTPStatus.OK
        body = (
            batch.shape.error(status, "The mock provider was told to fail.")
            if is_error
            else batch.shape.plain(Call(document, counts, Behavior(), f"{index:024x}"))
        )
        if batch.file:
            response = {"status_code": status, "request_id": f"req_{index}", "body": body}
            return {"id": f"batch_req_{index}", "custom_id": custom_id, "response": response, "error": None}
        result = {"type": "errored", "error": body} if is_error else {"type": "succeeded", "message": body}
        return {"custom_id": custom_id, "result": result}

    def _object(self, batch: _Batch) -> dict[str, object]:
        return _openai(batch) if batch.file else _anthropic(batch)


def _openai(batch: _Batch) -> dict[str, object]:
    ended, total = batch.answered is not None, len(batch.requests)
    if ended:
        status = "cancelled" if batch.cancelled else "completed" if batch.answered == total else "expired"
    else:
        status = "cancelling" if batch.cancelled else "in_progress"
    return {
        "id": batch.id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "errors": None,
        "input_file_id": batch.file,
        "completion_window": "24h",
        "status": status,
        "output_file_id": f"{batch.file}-output" if batch.results else None,
        "error_file_id": None,
        "created_at": CREATED,
        "request_counts": {"total": total, "completed": batch.answered or 0, "failed": 0},
        "metadata": None,
    }


def _anthropic(batch: _Batch) -> dict[str, object]:
    ended, total = batch.answered is not None, len(batch.requests)
    succeeded = batch.results.count(b'"type":"succeeded"')
    errored = (batch.answered or 0) - succeeded
    left = total - (batch.answered or 0) if ended else 0
    return {
        "id": batch.id,
        "type": "message_batch",
        "processing_status": "ended" if ended else "canceling" if batch.cancelled else "in_progress",
        "request_counts": {
            "processing": 0 if ended else total,
            "succeeded": succeeded,
            "errored": errored,
            "canceled": left if batch.cancelled else 0,
            "expired": 0 if batch.cancelled else left,
        },
        "created_at": _TIME,
        "expires_at": "2026-01-02T00:00:00Z",
        "ended_at": _TIME if ended else None,
        "cancel_initiated_at": _TIME if batch.cancelled else None,
        "archived_at": None,
        "results_url": f"/v1/messages/batches/{batch.id}/results" if ended else None,
    }


def _lines(content: bytes) -> Answer:
    return Answer(200, {"content-type": "application/x-jsonl"}, [Piece(content)], length=len(content))


def _error(status: HTTPStatus, message: str) -> Answer:
    return json_answer({"error": {"message": message, "type": "invalid_request_error"}}, status=status.value)
