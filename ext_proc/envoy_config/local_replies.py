"""Errors that Envoy makes itself, in the shape that the caller's SDK reads.

A refusal of ours is a local reply to Envoy too, and so is a provider's error to nobody: what tells them apart are the
response code details, which Envoy fills with a word of its own, admit with a word that starts OWN_DETAILS, and which
are not asked about where the provider answered.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus

from envoy_data_plane.envoy.config.accesslog.v3 import AccessLogFilter, AndFilter, ExtensionFilter, HeaderFilter
from envoy_data_plane.envoy.config.core.v3 import HeaderValue, HeaderValueOption, SubstitutionFormatString
from envoy_data_plane.envoy.config.route.v3 import HeaderMatcher
from envoy_data_plane.envoy.extensions.access_loggers.filters.cel.v3 import ExpressionFilter
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import (
    LocalReplyConfig,
    ResponseMapper,
)
from envoy_data_plane.envoy.type.matcher.v3 import RegexMatcher, StringMatcher
from envoy_data_plane.google.protobuf import Struct

from ext_proc.envoy_config.contract import OWN_DETAILS
from ext_proc.envoy_config.parts import packed
from ext_proc.envoy_config.settings import MEBIBYTE, EnvoySettings

ANTHROPIC_PATHS = r"[^?]*/messages(/[^?]*)?(\?.*)?"
OPENAI_MESSAGES = "/threads/"
"""Paths of OpenAI's assistants end in `/messages` too; these stand before."""

_NOT_SENT_ON = "nothing was sent on that it had not decided about before"
"""True of the first attempt, of a later one, and of an answer that could not be metered."""


@dataclass(frozen=True, slots=True)
class EnvoyError:
    """One kind of error, recognised by the first words of Envoy's response code details; none: any details."""

    code: str
    anthropic_type: str
    message: str
    mitigation: str
    details: tuple[str, ...] = ()
    server_fault: bool | None = None  # True: 5xx only, False: 4xx only
    status: HTTPStatus | None = None  # None: the one that Envoy chose
    retry_after_seconds: int | None = None
    headers: tuple[tuple[str, str], ...] = ()
    show_details: bool = True  # those of ext_proc quote our own exceptions, which are for the operator


def envoy_errors(settings: EnvoySettings) -> tuple[EnvoyError, ...]:
    """Every kind, in the order of recognition; the last two take what no other does."""
    limit_mib = settings.limits.request_body_bytes // MEBIBYTE
    return (
        EnvoyError(
            code="keys_unavailable",
            anthropic_type="overloaded_error",
            details=("jwt_authn_access_denied{Jwks_remote_fetch",),
            status=HTTPStatus.SERVICE_UNAVAILABLE,
            message="The gateway has no keys of the issuer of this token; nothing was sent to a provider.",
            mitigation="Retry; if it persists, tell the operators of the gateway that the issuer's keys are not there.",
            retry_after_seconds=1,
        ),
        EnvoyError(
            code="unauthenticated",
            anthropic_type="authentication_error",
            details=("jwt_authn_access_denied",),
            status=HTTPStatus.UNAUTHORIZED,
            message="The token is not accepted here.",
            mitigation="Send one token, fresh, of an issuer and for an audience of this gateway, or a virtual key.",
            headers=(("x-should-retry", "false"),),
        ),
        EnvoyError(
            code="request_too_large",
            anthropic_type="request_too_large",
            details=("request_payload_too_large",),
            message=f"The request body is larger than the {limit_mib} MiB this gateway accepts.",
            mitigation="Send less in one request, or refer to large files by URL or file id.",
        ),
        EnvoyError(
            code="admission_timeout",
            anthropic_type="timeout_error",
            details=("ext_proc_error_per-message_timeout",),
            message=f"The gateway could not decide about this request in time; {_NOT_SENT_ON}.",
            mitigation="Retry; if it persists, tell the operators of the gateway that admission is slow.",
            retry_after_seconds=1,
            show_details=False,
        ),
        EnvoyError(
            code="admission_unavailable",
            anthropic_type="overloaded_error",
            details=("ext_proc",),
            message=f"The gateway's spend control is not available; {_NOT_SENT_ON}.",
            mitigation="Retry; if it persists, tell the operators of the gateway that its sidecar is down.",
            retry_after_seconds=1,
            show_details=False,
        ),
        EnvoyError(
            code="provider_unavailable",
            anthropic_type="overloaded_error",
            details=("upstream_reset", "no_healthy_upstream", "cluster_not_found", "maintenance_mode"),
            message="The provider could not be reached, or closed the connection before it answered.",
            mitigation="Retry, or ask for a model of another provider account.",
        ),
        EnvoyError(
            code="provider_timeout",
            anthropic_type="timeout_error",
            details=("upstream_", "response_timeout", "stream_idle_timeout", "max_duration_timeout"),
            server_fault=True,
            message="The provider did not answer in time.",
            mitigation="Retry, ask for a shorter answer, or stream it.",
        ),
        EnvoyError(
            code="request_timeout",
            anthropic_type="timeout_error",
            details=("stream_idle_timeout", "request_overall_timeout", "request_header_timeout"),
            message="The request did not arrive in time.",
            mitigation="Send it without pauses; if it is large, over a faster connection.",
        ),
        EnvoyError(
            code="gateway_overloaded",
            anthropic_type="overloaded_error",
            details=("overload",),
            message="The gateway has too much to do.",
            mitigation="Retry later and with fewer requests at a time.",
            retry_after_seconds=2,
        ),
        EnvoyError(
            code="gateway_error",
            anthropic_type="api_error",
            server_fault=True,
            message="The gateway failed to serve this request.",
            mitigation="Retry; if it persists, tell the operators of the gateway the request id.",
        ),
        EnvoyError(
            code="invalid_request",
            anthropic_type="invalid_request_error",
            server_fault=False,
            message="The request is not HTTP that this gateway accepts.",
            mitigation="Check path, headers and encoding of the request; no upgrade to another protocol is possible.",
        ),
    )


def build_local_replies(settings: EnvoySettings) -> LocalReplyConfig:
    """For each error first the mapper of Anthropic's paths, then the one of all others. The first that matches acts."""
    errors = envoy_errors(settings)
    return LocalReplyConfig(mappers=[mapper for error in errors for mapper in (_anthropic(error), _openai(error))])


def _anthropic(error: EnvoyError) -> ResponseMapper:
    body = {"type": "error", "error": {"type": error.anthropic_type, "message": error.message, "code": error.code}}
    on_path = StringMatcher(safe_regex=RegexMatcher(regex=ANTHROPIC_PATHS))
    elsewhere = StringMatcher(contains=OPENAI_MESSAGES)
    filters = [
        _recognised(error),
        _header(HeaderMatcher(name=":path", string_match=on_path)),
        _header(HeaderMatcher(name=":path", string_match=elsewhere, invert_match=True)),
    ]
    return _mapper(error, AccessLogFilter(and_filter=AndFilter(filters=filters)), body)


def _openai(error: EnvoyError) -> ResponseMapper:
    body = {"error": {"type": error.code, "code": error.code, "message": error.message}}
    return _mapper(error, _recognised(error), body)


def _mapper(error: EnvoyError, when: AccessLogFilter, body: Mapping[str, object]) -> ResponseMapper:
    context = {"request_id": "%STREAM_ID%"} | ({"reason": "%RESPONSE_CODE_DETAILS%"} if error.show_details else {})
    extras = {"detail": error.message, "context": context, "mitigation": error.mitigation}
    return ResponseMapper(
        filter=when,
        status_code=None if error.status is None else error.status.value,
        body_format_override=SubstitutionFormatString(json_format=Struct.from_dict({**body, **extras})),
        headers_to_add=[HeaderValueOption(header=HeaderValue(key=key, value=value)) for key, value in _headers(error)],
    )


def _headers(error: EnvoyError) -> tuple[tuple[str, str], ...]:
    if error.retry_after_seconds is None:
        return error.headers
    return (*error.headers, ("retry-after", str(error.retry_after_seconds)))


def _recognised(error: EnvoyError) -> AccessLogFilter:
    """A CEL expression, the only filter that sees the details. Where a value is missing it is false."""
    details = "response.code_details"
    conditions = [f"{details} != ''", f"!{details}.startsWith('{OWN_DETAILS}')"]
    if error.details:
        conditions = ["(" + " || ".join(f"{details}.startsWith('{word}')" for word in error.details) + ")"]
    if error.server_fault is not None:
        conditions.append(f"response.code {'>=' if error.server_fault else '<'} 500")
    expression = ExpressionFilter(expression=" && ".join(conditions))
    return AccessLogFilter(
        extension_filter=ExtensionFilter(
            name="envoy.access_loggers.extension_filters.cel", typed_config=packed(expression)
        )
    )


def _header(matcher: HeaderMatcher) -> AccessLogFilter:
    return AccessLogFilter(header_filter=HeaderFilter(header=matcher))
