"""Refusals as bodies: each dialect's `error`, and the extra fields that are the same for all."""

from __future__ import annotations

from http import HTTPStatus

from ext_proc.refusal import Refusal

_ANTHROPIC_TYPES = {
    HTTPStatus.BAD_REQUEST: "invalid_request_error",
    HTTPStatus.UNAUTHORIZED: "authentication_error",
    HTTPStatus.FORBIDDEN: "permission_error",
    HTTPStatus.NOT_FOUND: "not_found_error",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "request_too_large",
    HTTPStatus.TOO_MANY_REQUESTS: "rate_limit_error",
    HTTPStatus.SERVICE_UNAVAILABLE: "overloaded_error",
    HTTPStatus.GATEWAY_TIMEOUT: "timeout_error",
}

_GOOGLE_STATUSES = {
    HTTPStatus.BAD_REQUEST: "INVALID_ARGUMENT",
    HTTPStatus.UNAUTHORIZED: "UNAUTHENTICATED",
    HTTPStatus.FORBIDDEN: "PERMISSION_DENIED",
    HTTPStatus.NOT_FOUND: "NOT_FOUND",
    HTTPStatus.TOO_MANY_REQUESTS: "RESOURCE_EXHAUSTED",
    HTTPStatus.SERVICE_UNAVAILABLE: "UNAVAILABLE",
    HTTPStatus.GATEWAY_TIMEOUT: "DEADLINE_EXCEEDED",
}


def openai(refusal: Refusal) -> dict[str, object]:
    """OpenAI's shape: its SDK shows the whole `error` object in the exception's message."""
    error = {"type": refusal.type.value, "code": refusal.type.value, "message": refusal.message}
    return {"error": error, **_extras(refusal)}


def anthropic(refusal: Refusal) -> dict[str, object]:
    """Anthropic's shape. `error.type` is one of Anthropic's own, by status: its SDK picks the exception by it."""
    default = "api_error" if refusal.status >= HTTPStatus.INTERNAL_SERVER_ERROR else "invalid_request_error"
    error = {
        "type": _ANTHROPIC_TYPES.get(refusal.status, default),
        "message": refusal.message,
        "code": refusal.type.value,
    }
    return {"type": "error", "error": error, **_extras(refusal)}


def google(refusal: Refusal) -> dict[str, object]:
    """Google's shape: `code` is the HTTP status, `status` a canonical name."""
    error = {
        "code": int(refusal.status),
        "message": refusal.message,
        "status": _GOOGLE_STATUSES.get(refusal.status, "INTERNAL"),
        "type": refusal.type.value,
    }
    return {"error": error, **_extras(refusal)}


def message(refusal: Refusal) -> dict[str, object]:
    """The shape of AWS and Cohere: `message` at the top, which their SDKs show."""
    return {"message": refusal.message, **openai(refusal)}


def flat(refusal: Refusal) -> dict[str, object]:
    """`error_format: flat`: `error` is a plain title, whatever the dialect."""
    return {"error": refusal.type.value.replace("_", " ").title(), **_extras(refusal)}


def _extras(refusal: Refusal) -> dict[str, object]:
    return {"detail": refusal.message, "context": refusal.context, "mitigation": refusal.mitigation}
