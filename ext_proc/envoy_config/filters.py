"""The HTTP filters, in the order of the request: tokens, admit, meter, Envoy's own parsers, strip, router."""

from __future__ import annotations

from envoy_data_plane.envoy.config.common.mutation_rules.v3 import (
    HeaderMutation,
    HeaderMutationRemoveOnMatch,
    HeaderMutationRules,
)
from envoy_data_plane.envoy.config.core.v3 import (
    DataSource,
    HeaderValue,
    HeaderValueOption,
    HeaderValueOptionHeaderAppendAction,
    TypedExtensionConfig,
)
from envoy_data_plane.envoy.extensions.filters.http.ext_proc.v3 import (
    ExternalProcessor,
    MetadataOptions,
    MetadataOptionsMetadataNamespaces,
    ProcessingMode,
)
from envoy_data_plane.envoy.extensions.filters.http.ext_proc.v3 import ProcessingModeBodySendMode as BodyMode
from envoy_data_plane.envoy.extensions.filters.http.ext_proc.v3 import ProcessingModeHeaderSendMode as HeaderMode
from envoy_data_plane.envoy.extensions.filters.http.header_mutation.v3 import HeaderMutation as HeaderMutationFilter
from envoy_data_plane.envoy.extensions.filters.http.header_mutation.v3 import Mutations
from envoy_data_plane.envoy.extensions.filters.http.lua.v3 import Lua
from envoy_data_plane.envoy.extensions.filters.http.router.v3 import Router
from envoy_data_plane.envoy.extensions.filters.http.upstream_codec.v3 import UpstreamCodec
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import HttpFilter
from envoy_data_plane.envoy.extensions.http.early_header_mutation.header_mutation.v3 import (
    HeaderMutation as EarlyHeaderMutation,
)
from envoy_data_plane.envoy.type.matcher.v3 import StringMatcher
from envoy_data_plane.envoy.type.v3 import HttpStatus, StatusCode

from ext_proc.envoy_config.contract import (
    ADMIT_ROLE,
    CALLER_PREFIX,
    CLAIMS_NAMESPACE,
    CONTROL_PREFIX,
    GO_ON_HEADER,
    METER_ROLE,
    RETRY_HEADERS,
    ROLE_KEY,
    TRY_ROLE,
)
from ext_proc.envoy_config.metered import meter_in_chain
from ext_proc.envoy_config.native import native_filters
from ext_proc.envoy_config.parts import grpc, packed, seconds
from ext_proc.envoy_config.settings import RESERVED_PREFIX, EnvoySettings
from ext_proc.envoy_config.tokens import token_filters
from ext_proc.exchange.chain import CHAIN_NAMESPACE, TRIED_NAMESPACE
from ext_proc.exchange.ticket import ANSWER_NAMESPACE, NAMESPACE
from ext_proc.server.settings import Metering

WORKERS_CLUSTER = f"{RESERVED_PREFIX}workers"
ATTEMPT_COUNT = "upstream.request_attempt_count"
CODE_DETAILS = "response.code_details"

_NOTE_STATUS = f"""function envoy_on_response(handle)
  local headers, noted = handle:headers(), handle:streamInfo():dynamicMetadata()
  local status, tried = headers:get(":status"), noted:get("{TRIED_NAMESPACE}")
  headers:remove("{GO_ON_HEADER}")
  if tried and tried["go_on"] and string.find(tried["go_on"], status, 1, true) then
    headers:add("{GO_ON_HEADER}", status)
  end
  noted:set("{TRIED_NAMESPACE}", "status", status)
end
"""
"""Codes have three digits each, so that one is found in a list of them wherever it stands."""

# Envoy's own additions and a proxy's traces say nothing to a provider but how the inside of the house looks.
PRIVATE_PREFIXES = (CONTROL_PREFIX, CALLER_PREFIX, "x-envoy-", "x-forwarded-")


def build_filters(settings: EnvoySettings) -> list[HttpFilter]:
    """The chain. Answers pass it from the bottom up."""
    return [
        *token_filters(settings),
        HttpFilter(name="tollgate.admit", typed_config=packed(admit_filter(settings))),
        meter_in_chain(settings, meter_filter(settings)),
        *(native_filters() if settings.metering is Metering.NATIVE else ()),
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
            forwarding_namespaces=MetadataOptionsMetadataNamespaces(untyped=[CLAIMS_NAMESPACE]),
            receiving_namespaces=MetadataOptionsMetadataNamespaces(
                untyped=[NAMESPACE, ANSWER_NAMESPACE, CHAIN_NAMESPACE]
            ),
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
        # An answer of Envoy's own making, such as that a time limit is over, passes here too: it is not the provider's.
        response_attributes=[CODE_DETAILS],
        metadata_options=MetadataOptions(forwarding_namespaces=MetadataOptionsMetadataNamespaces(untyped=[NAMESPACE])),
        mutation_rules=HeaderMutationRules(disallow_is_error=True),
    )


def strip_filter() -> HeaderMutationFilter:
    """Takes from a request what no provider may see. It runs after the route is chosen by some of these headers.

    What the router is to know of the request's attempts stands in Envoy's own headers from here on; it removes them.
    """
    own = [prefix for prefix in PRIVATE_PREFIXES if prefix != CONTROL_PREFIX]
    told = [_copy(name, to=router_name) for name, router_name in RETRY_HEADERS.items()]
    mutations = [*(remove_headers(prefix) for prefix in own), *told, remove_headers(CONTROL_PREFIX)]
    return HeaderMutationFilter(mutations=Mutations(request_mutations=mutations))


def try_filters(settings: EnvoySettings) -> list[HttpFilter]:
    """Per attempt of a chain: rewrite it, note what it was answered with. They stand on the chain's own cluster."""
    return [
        HttpFilter(name="tollgate.try", typed_config=packed(try_filter(settings))),
        HttpFilter(name="tollgate.tried", typed_config=packed(tried_filter())),
    ]


def codec_filter() -> HttpFilter:
    """The last of every upstream chain."""
    return HttpFilter(name="envoy.filters.http.upstream_codec", typed_config=packed(UpstreamCodec()))


def try_filter(settings: EnvoySettings) -> ExternalProcessor:
    """Request headers and the whole body of one attempt: fail closed, or it would carry another provider's key."""
    return ExternalProcessor(
        stat_prefix=TRY_ROLE,
        grpc_service=grpc(WORKERS_CLUSTER, {ROLE_KEY: TRY_ROLE}),
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
        request_attributes=[ATTEMPT_COUNT],
        metadata_options=MetadataOptions(
            forwarding_namespaces=MetadataOptionsMetadataNamespaces(
                untyped=[NAMESPACE, CHAIN_NAMESPACE, TRIED_NAMESPACE]
            ),
            receiving_namespaces=MetadataOptionsMetadataNamespaces(
                untyped=[NAMESPACE, ANSWER_NAMESPACE, TRIED_NAMESPACE]
            ),
        ),
        mutation_rules=HeaderMutationRules(disallow_is_error=True),
    )


def tried_filter() -> Lua:
    """The status of an attempt's answer, for the attempt after it: Envoy shows no other filter what it retries. And
    whether there is to be one, by this target's own list: the router knows one list for all attempts of a request.

    A few lines of Lua instead of a call to Python: an answer never waits for the sidecar, nor fails with it.
    """
    return Lua(default_source_code=DataSource(inline_string=_NOTE_STATUS))


def strip_control_headers() -> TypedExtensionConfig:
    """Before a route is looked for: what a client sends as a control header would otherwise choose one."""
    return TypedExtensionConfig(
        name="tollgate.early-strip",
        typed_config=packed(EarlyHeaderMutation(mutations=[remove_headers(CONTROL_PREFIX)])),
    )


def _copy(name: str, *, to: str) -> HeaderMutation:
    """A header under another name; none where the request has none."""
    return HeaderMutation(
        append=HeaderValueOption(
            header=HeaderValue(key=to, value=f"%REQ({name})%"),
            append_action=HeaderValueOptionHeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD,
        )
    )


def remove_headers(prefix: str) -> HeaderMutation:
    """Of these names' beginning."""
    return HeaderMutation(remove_on_match=HeaderMutationRemoveOnMatch(key_matcher=StringMatcher(prefix=prefix)))
