"""What Envoy's configuration and the sidecar agree on: header and metadata names."""

from __future__ import annotations

from typing import Final

ROLE_KEY: Final = "x-role"
"""gRPC metadata key by which the two filters, which share one service, say who they are."""

ADMIT_ROLE: Final = "admit"
METER_ROLE: Final = "meter"
TRY_ROLE: Final = "try"

CONTROL_PREFIX: Final = "x-tollgate-"
"""Request headers that only admit may set. Envoy drops a client's own before it looks for a route."""

CALLER_PREFIX: Final = "x-tfy-"
"""Request headers by which callers speak to Tollgate. No provider sees them, nor those of CONTROL_PREFIX."""

CLUSTER_HEADER: Final = "x-tollgate-cluster"
"""The provider account that serves: admit sets it with `clear_route_cache`."""

METER_HEADER: Final = "x-tollgate-meter"
"""Whether the answer passes the meter: admit sets it together with CLUSTER_HEADER."""

METER_STREAM: Final = "stream"
METER_NATIVE: Final = "native"

ENCODING_HEADER: Final = "content-encoding"
"""Of an answer: Envoy's own parsers do not inflate, so with it the answer passes meter, and its record tells so."""

SIGN_HEADER: Final = "x-tollgate-sign"
"""The account whose credentials sign this attempt: try sets it, and no provider sees it."""

RETRY_HEADERS: Final = {
    "x-tollgate-retry-on": "x-envoy-retry-on",
    "x-tollgate-retries": "x-envoy-max-retries",
    "x-tollgate-first-byte-ms": "x-envoy-upstream-rq-per-try-timeout-ms",
    "x-tollgate-request-ms": "x-envoy-upstream-rq-timeout-ms",
}
"""What admit says of one request's attempts → the header by which Envoy's router takes it, and takes it away."""

GO_ON_HEADER: Final = "x-tollgate-go-on"
"""On the answer of an attempt: its status is one after which the next attempt is made. Envoy's own filter sets it, by
what try has said of this target; a client never sees it."""

WORKER_KEY: Final = "worker"
"""Key in the ticket's namespace: the worker that admitted. The access log is filtered on it."""

CLAIMS_NAMESPACE: Final = "envoy.filters.http.jwt_authn"
CLAIMS_KEY: Final = "claims"
"""Where the claims of a verified token stand in the metadata: Envoy's filter chooses the namespace, we the key."""

OWN_DETAILS: Final = "tollgate"
"""How the `details` of an immediate response start. Without, Envoy would take it for an error of its own making."""

RATE_LIMIT_HEADERS: Final = tuple(
    f"x-ratelimit-{part}-{unit}" for unit in ("requests", "tokens") for part in ("limit", "remaining", "reset")
)

ANSWER_HEADERS: Final = {
    "x-tfy-resolved-model": "resolved_model",
    "x-tfy-applied-rules": "applied_rules",
    "x-tfy-ignored-headers": "ignored_headers",
    "x-tollgate-verdict": "verdict",
    "x-tollgate-request-id": "request_id",
    "x-tollgate-output-limit": "output_limit",
    "x-tollgate-attempts": "attempts",
    "x-tollgate-content-log": "content_log",
} | {name: name.removeprefix("x-").replace("-", "_") for name in RATE_LIMIT_HEADERS}
"""Response header → key in the answer namespace. Envoy adds those whose key admit set, in either metering mode."""
