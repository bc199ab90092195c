"""The HTTP filters, in the order of the request: admit, meter, strip, router."""

from __future__ import annotations

from envoy_data_plane.envoy.config.common.mutation_rules.v3 import (
    HeaderMutation,
    HeaderMutationRemoveOnMatch,
    HeaderMutationRules,
)
from envoy_data_plane.envoy.config.core.v3 import TypedExtensionConfig
from envoy_data_plane.envoy.extensions.filters.http.ext_proc.v3 import (
    ExternalProcessor,
    ExtProcPerRoute,
    MetadataOptions,
    MetadataOptionsMetadataNamespaces,
    ProcessingMode,
)
from envoy_data_plane.envoy.extensions.filters.http.ext_proc.v3 import ProcessingModeBodySendMode as BodyMode
from envoy_data_plane.envoy.extensions.filters.http.ext_proc.v3 import ProcessingModeHeaderSendMode as HeaderMode
from envoy_data_plane.envoy.extensions.filters.http.header_mutation.v3 import HeaderMutation as HeaderMutationFilter
from envoy_data_plane.envoy.extensions.filters.http.header_mutation.v3 import Mutations
from envoy_data_plane.envoy.extensions.filters.http.router.v3 import Router
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import HttpFilter
from envoy_data_plane.envoy.extensions.http.early_header_mutation.header_mutation.v3 import (
    HeaderMutation as EarlyHeaderMutation,
)
from envoy_data_plane.envoy.type.matcher.v3 import StringMatcher
from envoy_data_plane.envoy.type.v3 import HttpStatus, StatusCode
from envoy_data_plane.google.protobuf import Any as PackedAny

from ext_proc.envoy_config.clusters import WORKERS_CLUSTER
from ext_proc.envoy_config.contract import ADMIT_ROLE, CALLER_PREFIX, CONTROL_PREFIX, METER_ROLE, ROLE_KEY
from ext_proc.envoy_config.parts import grpc, packed, seconds
from ext_proc.envoy_config.settings import EnvoySettings
from ext_proc.exchange.ticket import ANSWER_NAMESPACE, NAMESPACE

METER_FILTER = "tollgate.meter"

# Envoy's own additions and a proxy's traces say nothing to a provider but how the inside of the house looks.
PRIVATE_PREFIXES = (CONTROL_PREFIX, CALLER_PREFIX, "x-envoy-", "x-forwarded-")


def build_filters(settings: EnvoySettings) -> list[HttpFilter]:
    """The chain. Answers pass it from the bottom up."""
    return [
        HttpFilter(name="tollgate.admit", typed_config=packed(admit_filter(settings))),
        HttpFilter(name=METER_FILTER, typed_config=packed(meter_filter(settings))),
        HttpFilter(name="tollgate.strip", typed_config=packed(strip_filter())),
        HttpFilter(name="envoy.filters.http.router", typed_config=packed(Router(suppress_envoy_headers=True))),
    ]


def admit_filter(settings: EnvoySettings) -> ExternalProcessor:
    """Request headers and the whole body, no answer: fail closed."""
    return ExternalProcessor(
        stat_prefix=ADMIT_ROLE,
        grpc_service=grpc(WORKERS_CLUSTER, {ROLE_KEY: ADMIT_ROLE}),
        failure_mode_allow=False,
        status_on_error=HttpStatus(code=StatusCode.ServiceUnavailable),
        message_timeout=seconds(settings.timeouts.admission),
        processing_mode=ProcessingMode(
            request_header_mode=HeaderMode.SEND,
            request_body_mode=BodyMode.BUFFERED,
            request_trailer_mode=HeaderMode.SKIP,
            response_header_mode=HeaderMode.SKIP,
            response_body_mode=BodyMode.NONE,
            response_trailer_mode=HeaderMode.SKIP,
        ),
        metadata_options=MetadataOptions(
            receiving_namespaces=MetadataOptionsMetadataNamespaces(untyped=[NAMESPACE, ANSWER_NAMESPACE])
        ),
        # A mutation that Envoy does not allow is a bug of ours: loud instead of silently dropped.
        mutation_rules=HeaderMutationRules(disallow_is_error=True),
    )


def meter_filter(settings: EnvoySettings) -> ExternalProcessor:
    """The answer only: fail open, because it was paid for. Chooses per answer by mode override what it needs to see."""
    return ExternalProcessor(
        stat_prefix=METER_ROLE,
        grpc_service=grpc(WORKERS_CLUSTER, {ROLE_KEY: METER_ROLE}),
        failure_mode_allow=True,
        message_timeout=seconds(settings.timeouts.admission),
        allow_mode_override=True,
        processing_mode=ProcessingMode(
            request_header_mode=HeaderMode.SKIP,
            request_body_mode=BodyMode.NONE,
            request_trailer_mode=HeaderMode.SKIP,
            response_header_mode=HeaderMode.SEND,
            response_body_mode=BodyMode.STREAMED,
            response_trailer_mode=HeaderMode.SKIP,
        ),
        metadata_options=MetadataOptions(forwarding_namespaces=MetadataOptionsMetadataNamespaces(untyped=[NAMESPACE])),
        mutation_rules=HeaderMutationRules(disallow_is_error=True),
    )


def meter_disabled() -> dict[str, PackedAny]:
    """What a route carries whose answers do not pass the meter."""
    return {METER_FILTER: packed(ExtProcPerRoute(disabled=True))}


def strip_filter() -> HeaderMutationFilter:
    """Takes from a request what no provider may see. It runs after the route is chosen by some of these headers."""
    return HeaderMutationFilter(mutations=Mutations(request_mutations=[_remove(prefix) for prefix in PRIVATE_PREFIXES]))


def strip_control_headers() -> TypedExtensionConfig:
    """Before a route is looked for: what a client sends as a control header would otherwise choose one."""
    return TypedExtensionConfig(
        name="tollgate.early-strip",
        typed_config=packed(EarlyHeaderMutation(mutations=[_remove(CONTROL_PREFIX)])),
    )


def _remove(prefix: str) -> HeaderMutation:
    return HeaderMutation(remove_on_match=HeaderMutationRemoveOnMatch(key_matcher=StringMatcher(prefix=prefix)))
