"""Between Envoy's messages and the machines' events: the only place that knows both.

Every header value is read from and written to `raw_value`: Envoy's ext_proc ignores `value`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from google.protobuf.json_format import MessageToDict
from google.protobuf.struct_pb2 import Struct

from ext_proc.batches.ticket import FIELD as BATCH_FIELD
from ext_proc.exchange.attempts import Send
from ext_proc.exchange.chain import CHAIN_NAMESPACE, TRIED_NAMESPACE, Limits
from ext_proc.exchange.effects import Forward, PassUnmetered, Refuse
from ext_proc.exchange.events import EndRecord, RequestHead, ResponseHead
from ext_proc.exchange.ticket import ANSWER_NAMESPACE, NAMESPACE, USAGE_NAMESPACE
from ext_proc.identity.presented import CREDENTIAL_HEADERS, SIGNATURE_HEADERS
from ext_proc.policy.snapshot import ProviderAccount
from ext_proc.server.settings import Metering
from ext_proc.wire import access_log_pb2 as log_pb
from ext_proc.wire import core_pb2 as core_pb
from ext_proc.wire import external_processor_pb2 as pb
from ext_proc.wire import processing_mode_pb2 as mode_pb

CLUSTER_HEADER: Final = "x-tollgate-cluster"
SIGN_HEADER: Final = "x-tollgate-sign"
METER_HEADER: Final = "x-tollgate-meter"
RETRY_ON_HEADER: Final = "x-tollgate-retry-on"
RETRY_ON: Final = "connect-failure,refused-stream,reset,retriable-headers"
RETRIES_HEADER: Final = "x-tollgate-retries"
FIRST_BYTE_HEADER: Final = "x-tollgate-first-byte-ms"
REQUEST_TIMEOUT_HEADER: Final = "x-tollgate-request-ms"
ENCODING_HEADER: Final = "content-encoding"
"""Of an answer. Records tell it, because Envoy's own parsers do not inflate: such an answer passes meter."""

REFUSED_DETAILS: Final = "tollgate_refused"
"""What `%RESPONSE_CODE_DETAILS%` says of our own refusals: their end records need no resolution."""

HEADER_OVERHEAD_BYTES: Final = 128
"""What an answer without a body receives on the wire beyond what Envoy 1.40 counts as its headers: 26 to 45 bytes were
measured over HTTP/1. Bytes of a body that small are no output."""

CONTINUE_REQUEST_HEADERS: Final = pb.ProcessingResponse(request_headers=pb.HeadersResponse()).SerializeToString()
CONTINUE_RESPONSE_HEADERS: Final = pb.ProcessingResponse(response_headers=pb.HeadersResponse()).SerializeToString()
CONTINUE_RESPONSE_BODY: Final = pb.ProcessingResponse(response_body=pb.BodyResponse()).SerializeToString()
CONTINUE_RESPONSE_TRAILERS: Final = pb.ProcessingResponse(response_trailers=pb.TrailersResponse()).SerializeToString()

END_HERE_RESPONSE_HEADERS: Final = pb.ProcessingResponse(
    response_headers=pb.HeadersResponse(),
    mode_override=mode_pb.ProcessingMode(
        response_header_mode=mode_pb.ProcessingMode.SEND,
        request_body_mode=mode_pb.ProcessingMode.NONE,
        response_body_mode=mode_pb.ProcessingMode.FULL_DUPLEX_STREAMED,
        response_trailer_mode=mode_pb.ProcessingMode.SEND,
    ),
).SerializeToString()
"""Go on, and hand over the body: in full duplex it is ours to pass on, and to end before the provider has."""

_ATTRIBUTES: Final = "envoy.filters.http.ext_proc"
_CODE_DETAILS: Final = "response.code_details"
_VIA_UPSTREAM: Final = "via_upstream"

_PSEUDO_PATH, _PSEUDO_METHOD = ":path", ":method"


JWT_NAMESPACE: Final = "envoy.filters.http.jwt_authn"
JWT_PAYLOAD: Final = "claims"
"""`payload_in_metadata` of the token providers in Envoy's `jwt_authn` filter."""


def request_head(headers: pb.HttpHeaders, now_us: int, claims: dict[str, object] | None = None) -> RequestHead:
    """The request's head. Bytes that are not UTF-8 are kept as surrogates, so that nothing is lost silently."""
    pairs = _pairs(headers.headers)
    pseudo = {name: value for name, value in pairs if name.startswith(":")}
    return RequestHead(
        method=pseudo.get(_PSEUDO_METHOD, ""),
        path=pseudo.get(_PSEUDO_PATH, ""),
        headers=tuple((name, value) for name, value in pairs if not name.startswith(":")),
        now_us=now_us,
        has_body=not headers.end_of_stream,
        claims=claims,
    )


def claims(metadata: core_pb.Metadata) -> dict[str, object] | None:
    """The claims of a token that Envoy's `jwt_authn` has verified, None where there are none."""
    struct = metadata.filter_metadata.get(JWT_NAMESPACE)
    if not isinstance(struct, Struct) or JWT_PAYLOAD not in struct.fields:
        return None
    return MessageToDict(struct.fields[JWT_PAYLOAD].struct_value)


def is_envoys_own(message: pb.ProcessingRequest) -> bool:
    """Whether an answer's head comes from Envoy itself: a time limit is over, a connection failed."""
    attributes = message.attributes.get(_ATTRIBUTES)
    details = "" if attributes is None else attributes.fields[_CODE_DETAILS].string_value
    return details not in {"", _VIA_UPSTREAM}


def response_head(headers: pb.HttpHeaders, now_us: int) -> ResponseHead:
    """The response's head."""
    first = dict(reversed(_pairs(headers.headers)))
    return ResponseHead(
        status=int(first.get(":status", "0")),
        content_type=first.get("content-type", ""),
        content_encoding=first.get(ENCODING_HEADER, ""),
        now_us=now_us,
        has_body=not headers.end_of_stream,
    )


def end_record(entry: log_pb.HTTPAccessLogEntry) -> EndRecord:
    """What an access log record says of how a request ended."""
    common, flags = entry.common_properties, entry.common_properties.response_flags
    first_byte = common.time_to_first_upstream_rx_byte
    return EndRecord(
        status=entry.response.response_code.value,
        sent_upstream=common.HasField("time_to_last_upstream_tx_byte"),
        answered=common.HasField("time_to_first_upstream_rx_byte"),
        client_gone=flags.downstream_connection_termination or flags.downstream_remote_reset,
        timed_out=(
            flags.upstream_request_timeout
            or flags.stream_idle_timeout
            or flags.duration_timeout
            or flags.upstream_max_stream_duration_reached
        ),
        upstream_failed=(
            flags.upstream_connection_failure
            or flags.upstream_connection_termination
            or flags.upstream_remote_reset
            or flags.upstream_protocol_error
            or flags.upstream_overflow
            or flags.no_healthy_upstream
            or flags.no_route_found
            or flags.no_cluster_found
            or flags.dns_resolution_failure
        ),
        upstream_body_bytes=max(
            0,
            common.upstream_wire_bytes_received - entry.response.upstream_header_bytes_received - HEADER_OVERHEAD_BYTES,
        ),
        duration_us=common.duration.ToMicroseconds(),
        first_byte_us=first_byte.ToMicroseconds() if common.HasField("time_to_first_upstream_rx_byte") else None,
        reported=_reported(common.metadata),
        encoded=bool(entry.response.response_headers.get(ENCODING_HEADER)),
    )


def acknowledge_head(hold_id: str, worker: str) -> bytes:
    """Go on to the body; the id goes into the metadata before the hold exists, so that every record can be matched."""
    response = pb.ProcessingResponse(request_headers=pb.HeadersResponse())
    _note(response, {NAMESPACE: {"id": hold_id, "worker": worker}})
    return response.SerializeToString()


def forward(effect: Forward, credential: tuple[tuple[str, str], ...], worker: str) -> bytes:
    """The answer to the request body: route, credential, changed body, and the ticket."""
    response = pb.ProcessingResponse()
    common = response.request_body.response
    common.clear_route_cache = True
    headers = [
        (CLUSTER_HEADER, effect.cluster or effect.account),
        (METER_HEADER, (Metering.NATIVE if effect.ticket.native else Metering.STREAM).value),
        *_limits(effect.limits),
    ]
    if effect.chain is not None:
        _note(response, {CHAIN_NAMESPACE: {"chain": effect.chain.encode()}})
    else:
        headers += [(_PSEUDO_PATH, effect.path), *effect.set_headers, *credential]
        if effect.body is not None:
            common.body_mutation.body = effect.body
            headers.append(("content-length", str(len(effect.body))))
    _mutate(common.header_mutation, headers, effect.remove_headers)
    ticket = {"id": effect.ticket.hold_id, "worker": worker}
    ticket |= {"ticket": effect.ticket.encode()} if effect.batch is None else {BATCH_FIELD: effect.batch}
    _note(response, {NAMESPACE: ticket, ANSWER_NAMESPACE: effect.answer})
    return response.SerializeToString()


def send_attempt(send: Send, account: ProviderAccount, credential: tuple[tuple[str, str], ...], worker: str) -> bytes:
    """The answer to an attempt's body: everything that is this target's, over what an attempt before has left."""
    response = pb.ProcessingResponse()
    common = response.request_body.response
    headers = [
        (_PSEUDO_PATH, send.path),
        ("content-length", str(len(send.body))),
        *send.set_headers,
        *credential,
        *([(SIGN_HEADER, account.name)] if account.signing is not None else []),
    ]
    common.body_mutation.body = send.body
    set_now = {name for name, _ in headers}
    # An attempt before may have been signed, or another account's.
    removed = dict.fromkeys((*CREDENTIAL_HEADERS, *SIGNATURE_HEADERS, SIGN_HEADER, *send.remove_headers))
    _mutate(common.header_mutation, headers, tuple(name for name in removed if name not in set_now))
    _note(
        response,
        {ANSWER_NAMESPACE: send.answer, TRIED_NAMESPACE: {"status": "", "go_on": ",".join(map(str, send.go_on))}},
    )
    if send.ticket is not None:
        ticket = {"id": send.ticket.hold_id, "worker": worker, "ticket": send.ticket.encode()}
        _note(response, {NAMESPACE: ticket})
    return response.SerializeToString()


def pass_unmetered(effect: PassUnmetered, credential: tuple[tuple[str, str], ...], *, has_body: bool) -> bytes:
    """Forward without a hold; an empty id tells the log that there is nothing to resolve. The answer to a call about a
    batch passes the meter.
    """
    response = pb.ProcessingResponse()
    common = (response.request_body if has_body else response.request_headers).response
    common.clear_route_cache = True
    metering = Metering.NATIVE if effect.batch is None else Metering.STREAM
    headers = [(CLUSTER_HEADER, effect.account), (METER_HEADER, metering.value), (_PSEUDO_PATH, effect.path)]
    _mutate(common.header_mutation, [*headers, *credential], effect.remove_headers)
    _note(response, {NAMESPACE: {"id": ""} | ({} if effect.batch is None else {BATCH_FIELD: effect.batch})})
    return response.SerializeToString()


def _limits(limits: Limits) -> list[tuple[str, str]]:
    """What the router is told of this request: Envoy's filter turns these into its own headers."""
    headers: list[tuple[str, str]] = []
    if limits.retries:
        headers.append((RETRY_ON_HEADER, RETRY_ON))
        headers.append((RETRIES_HEADER, str(limits.retries)))
    if limits.first_byte_ms is not None:
        headers.append((FIRST_BYTE_HEADER, str(limits.first_byte_ms)))
    if limits.request_ms is not None:
        headers.append((REQUEST_TIMEOUT_HEADER, str(limits.request_ms)))
    return headers


def refuse(effect: Refuse, body: bytes) -> bytes:
    """Answer the client now."""
    response = pb.ProcessingResponse()
    immediate = response.immediate_response
    immediate.status.code = effect.refusal.status.value
    immediate.body = body
    immediate.details = REFUSED_DETAILS
    _mutate(immediate.headers, list(effect.headers.items()), ())
    return response.SerializeToString()


def replace_chunk(replacement: bytes) -> bytes:
    """Give the client something else than the chunk that came."""
    response = pb.ProcessingResponse()
    mutation = response.response_body.response.body_mutation
    if replacement:
        mutation.body = replacement
    else:
        mutation.clear_body = True
    return response.SerializeToString()


def pass_on(body: bytes, *, end: bool) -> bytes:
    """A piece of a body that was handed over to us. `end` before the provider's own makes Envoy let go of it."""
    response = pb.ProcessingResponse()
    streamed = response.response_body.response.body_mutation.streamed_response
    streamed.body = body
    streamed.end_of_stream = end
    return response.SerializeToString()


def metadata_field(metadata: core_pb.Metadata, name: str, namespace: str = NAMESPACE) -> str:
    """A text field of a namespace of ours, '' where there is none."""
    struct = metadata.filter_metadata.get(namespace)
    if not isinstance(struct, Struct) or name not in struct.fields:
        return ""
    return struct.fields[name].string_value


def _reported(metadata: core_pb.Metadata) -> dict[str, object]:
    """What Envoy's own parsers read in the answer."""
    if USAGE_NAMESPACE not in metadata.filter_metadata:
        return {}
    struct = metadata.filter_metadata[USAGE_NAMESPACE]
    return {
        name: value.number_value if value.HasField("number_value") else value.string_value
        for name, value in struct.fields.items()
    }


def _pairs(headers: core_pb.HeaderMap) -> list[tuple[str, str]]:
    return [
        (header.key, (header.raw_value or header.value.encode()).decode("utf-8", "surrogateescape"))
        for header in headers.headers
    ]


def _note(response: pb.ProcessingResponse, namespaces: Mapping[str, Mapping[str, str]]) -> None:
    """Texts for the dynamic metadata. Written field by field: a Struct's own `update` takes four times as long."""
    for namespace, values in namespaces.items():
        fields = response.dynamic_metadata.fields[namespace].struct_value.fields
        for name, value in values.items():
            fields[name].string_value = value


def _mutate(mutation: pb.HeaderMutation, headers: list[tuple[str, str]], removed: tuple[str, ...]) -> None:
    for name, value in headers:
        option = mutation.set_headers.add()
        option.header.key = name
        option.header.raw_value = value.encode()
    mutation.remove_headers.extend(removed)
