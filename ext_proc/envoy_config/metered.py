"""Which answers pass meter: by route, and where Envoy's own parsers read the others, by what an answer is.

Those parsers do not inflate. So with native metering an answer that its provider compressed without being asked to
passes meter, which does, and everything else passes no Python. A filter behind Envoy's match delegate is asked about
each answer's head; a route that says nothing of it skips it. With `stream` metering no answer is asked about, and no
more of Envoy is needed than ext_proc.
"""

from __future__ import annotations

from envoy_data_plane.envoy.config.core.v3 import TypedExtensionConfig
from envoy_data_plane.envoy.extensions.common.matching.v3 import ExtensionWithMatcher, ExtensionWithMatcherPerRoute
from envoy_data_plane.envoy.extensions.filters.common.matcher.action.v3 import SkipFilter
from envoy_data_plane.envoy.extensions.filters.http.ext_proc.v3 import ExternalProcessor, ExtProcPerRoute
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import HttpFilter
from envoy_data_plane.envoy.type.matcher.v3 import HttpResponseHeaderMatchInput
from envoy_data_plane.google.protobuf import Any as PackedAny
from envoy_data_plane.xds.core.v3 import TypedExtensionConfig as MatcherExtension
from envoy_data_plane.xds.type.matcher.v3 import (
    Matcher,
    MatcherMatcherList,
    MatcherMatcherListFieldMatcher,
    MatcherMatcherListPredicate,
    MatcherMatcherListPredicateSinglePredicate,
    MatcherOnMatch,
    RegexMatcher,
    RegexMatcherGoogleRe2,
    StringMatcher,
)

from ext_proc.envoy_config.contract import ENCODING_HEADER
from ext_proc.envoy_config.parts import packed
from ext_proc.envoy_config.settings import EnvoySettings
from ext_proc.server.settings import Metering

METER_FILTER = "tollgate.meter"


def meter_in_chain(settings: EnvoySettings, meter: ExternalProcessor) -> HttpFilter:
    """The filter as it stands in the chain."""
    if settings.metering is not Metering.NATIVE:
        return HttpFilter(name=METER_FILTER, typed_config=packed(meter))
    return HttpFilter(
        name=METER_FILTER,
        typed_config=packed(
            ExtensionWithMatcher(extension_config=TypedExtensionConfig(name=METER_FILTER, typed_config=packed(meter)))
        ),
    )


def every_answer(settings: EnvoySettings) -> dict[str, PackedAny]:
    """What a route carries whose answers all pass meter."""
    return {METER_FILTER: _skips(Matcher())} if settings.metering is Metering.NATIVE else {}


def no_answer(settings: EnvoySettings) -> dict[str, PackedAny]:
    """What a route carries whose answers do not."""
    if settings.metering is Metering.NATIVE:
        return {}
    return {METER_FILTER: packed(ExtProcPerRoute(disabled=True))}


def encoded_answers(settings: EnvoySettings) -> dict[str, PackedAny]:
    """What a route carries of which only compressed answers do."""
    if settings.metering is not Metering.NATIVE:
        return no_answer(settings)
    encoding = MatcherExtension(
        name=ENCODING_HEADER, typed_config=packed(HttpResponseHeaderMatchInput(header_name=ENCODING_HEADER))
    )
    encoded = MatcherMatcherListPredicate(
        single_predicate=MatcherMatcherListPredicateSinglePredicate(
            input=encoding,
            value_match=StringMatcher(safe_regex=RegexMatcher(google_re2=RegexMatcherGoogleRe2(), regex=".+")),
        )
    )
    skip = MatcherOnMatch(action=MatcherExtension(name="skip", typed_config=packed(SkipFilter())))
    plain = MatcherMatcherListFieldMatcher(predicate=MatcherMatcherListPredicate(not_matcher=encoded), on_match=skip)
    return {METER_FILTER: _skips(Matcher(matcher_list=MatcherMatcherList(matchers=[plain])))}


def _skips(matcher: Matcher) -> PackedAny:
    return packed(ExtensionWithMatcherPerRoute(xds_matcher=matcher))
