"""Routes: admit chooses by two headers; until it has, a request is on the catch-all, which leads nowhere."""

from __future__ import annotations

from envoy_data_plane.envoy.config.core.v3 import HeaderValue, HeaderValueOption, HeaderValueOptionHeaderAppendAction
from envoy_data_plane.envoy.config.route.v3 import (
    HeaderMatcher,
    RetryPolicy,
    RetryPolicyRetryBackOff,
    Route,
    RouteAction,
    RouteConfiguration,
    RouteMatch,
    VirtualHost,
)
from envoy_data_plane.envoy.type.matcher.v3 import StringMatcher

from ext_proc.envoy_config.contract import (
    ANSWER_HEADERS,
    CLUSTER_HEADER,
    GO_ON_HEADER,
    METER_HEADER,
    METER_NATIVE,
    METER_STREAM,
)
from ext_proc.envoy_config.metered import encoded_answers, every_answer, no_answer
from ext_proc.envoy_config.native import reads_json
from ext_proc.envoy_config.parts import seconds
from ext_proc.envoy_config.settings import NO_CLUSTER, EnvoySettings
from ext_proc.exchange.ticket import ANSWER_NAMESPACE
from ext_proc.server.settings import Metering


def build_routes(settings: EnvoySettings) -> RouteConfiguration:
    """The whole route table."""
    return RouteConfiguration(
        name="tollgate",
        virtual_hosts=[
            VirtualHost(
                name="tollgate",
                domains=["*"],
                routes=[metered_route(settings), native_route(settings), catch_all_route(settings)],
            )
        ],
    )


def metered_route(settings: EnvoySettings) -> Route:
    """The answer passes meter."""
    route = _account_route(settings, METER_STREAM)
    route.typed_per_filter_config = every_answer(settings)
    return route


def native_route(settings: EnvoySettings) -> Route:
    """The answer passes no Python, unless its provider has compressed it."""
    route = _account_route(settings, METER_NATIVE)
    route.typed_per_filter_config = encoded_answers(settings)
    if settings.metering is Metering.NATIVE:
        route.typed_per_filter_config |= reads_json()
    return route


def catch_all_route(settings: EnvoySettings) -> Route:
    """In force while admit reads the body. Not a direct response: that would ignore the body limit."""
    return Route(
        name="undecided",
        match=RouteMatch(prefix="/"),
        route=RouteAction(cluster=NO_CLUSTER, timeout=seconds(0)),
        request_body_buffer_limit=settings.limits.request_body_bytes,
        typed_per_filter_config=no_answer(settings),
    )


def _account_route(settings: EnvoySettings, meter: str) -> Route:
    return Route(
        name=meter,
        match=RouteMatch(
            prefix="/", headers=[HeaderMatcher(name=METER_HEADER, string_match=StringMatcher(exact=meter))]
        ),
        route=RouteAction(
            cluster_header=CLUSTER_HEADER,
            auto_host_rewrite=True,
            # Models stream for minutes: what bounds them is silence, and the account's longest stream.
            timeout=seconds(0),
            # Whether and how often, admit says per request. Providers that fail do so for longer than a pause helps.
            retry_policy=RetryPolicy(
                retriable_headers=[HeaderMatcher(name=GO_ON_HEADER, present_match=True)],
                retry_back_off=RetryPolicyRetryBackOff(base_interval=seconds(0.005), max_interval=seconds(0.05)),
            ),
        ),
        request_body_buffer_limit=settings.limits.request_body_bytes,
        response_headers_to_remove=[GO_ON_HEADER],
        response_headers_to_add=[_answer_header(name, key) for name, key in ANSWER_HEADERS.items()],
    )


def _answer_header(name: str, key: str) -> HeaderValueOption:
    """A header that exists when admit set its key; else what the provider sent stays."""
    return HeaderValueOption(
        header=HeaderValue(key=name, value=f"%DYNAMIC_METADATA({ANSWER_NAMESPACE}:{key})%"),
        append_action=HeaderValueOptionHeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD,
    )
