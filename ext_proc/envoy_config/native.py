"""Envoy's own parsers, which read usage without a message to Python: from the dialects' usage tables, as meter does.

Both are work in progress upstream (Envoy 1.40), so they are rendered only where metering is native. What they find is
written to the metadata by its path; what count that is, the dialect of the request says when the record settles.

Seen on Envoy 1.40: a `null` is passed over; the JSON filter takes a configuration of its own from a route, the event
filter does not; a route's `request_body_buffer_limit` bounds what the JSON filter keeps of an answer, too.
"""

from __future__ import annotations

from envoy_data_plane.envoy.config.core.v3 import TypedExtensionConfig
from envoy_data_plane.envoy.extensions.content_parsers.json.v3 import JsonContentParser, JsonContentParserRuleConfig
from envoy_data_plane.envoy.extensions.filters.http.json_to_metadata.v3 import (
    JsonToMetadata,
    JsonToMetadataKeyValuePair,
    JsonToMetadataMatchRules,
    JsonToMetadataRule,
    JsonToMetadataSelector,
)
from envoy_data_plane.envoy.extensions.filters.http.sse_to_metadata.v3 import (
    SseToMetadata,
    SseToMetadataProcessingRules,
)
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import HttpFilter
from envoy_data_plane.google.protobuf import Any as PackedAny

from ext_proc.dialects.registry import native_tables
from ext_proc.dialects.usage_paths import native_key
from ext_proc.envoy_config.parts import packed
from ext_proc.exchange.ticket import USAGE_NAMESPACE

JSON_FILTER = "tollgate.json-usage"
EVENTS_FILTER = "tollgate.event-usage"

EVENT_BYTES_MAX = 10 << 20
"""The largest that Envoy allows: a longer event is dropped, and with it the usage it may hold."""

_NO_CONTENT_TYPE = "application/x-tollgate-unread"


def native_filters() -> list[HttpFilter]:
    """Answers pass the second first."""
    return [
        HttpFilter(name=EVENTS_FILTER, typed_config=packed(events_filter())),
        HttpFilter(name=JSON_FILTER, typed_config=packed(json_filter(_NO_CONTENT_TYPE))),
    ]


def reads_json() -> dict[str, PackedAny]:
    """What the native route carries. The filter keeps a whole answer in memory, so no other route has it read any."""
    return {JSON_FILTER: packed(json_filter("application/json"))}


def json_filter(content_type: str) -> JsonToMetadata:
    """Reads plain JSON answers of this content type: every single count, because it cannot write down an object."""
    tables = native_tables()
    counts = (entry.path for table in tables for entry in table.counts)
    texts = (path for table in tables for path in table.texts)
    rules = [_rule(path) for path in dict.fromkeys((*counts, *texts))]
    return JsonToMetadata(response_rules=JsonToMetadataMatchRules(rules=rules, allow_content_types=[content_type]))


def events_filter() -> SseToMetadata:
    """Reads server-sent events as they pass, and keeps none back. It runs on every event, so it has few rules: it
    writes down the whole object that holds the counts.
    """
    tables = native_tables()
    objects = tuple(dict.fromkeys(place for table in tables for place in table.prefixes()))
    texts = {path for table in tables for path in table.texts}
    paths = (*objects, *sorted(path for path in texts if path[:-1] not in objects))
    # Every rule applies to every event: the last value is the true one, and a first one may be empty.
    rules = [JsonContentParserRuleConfig(rule=_rule(path)) for path in paths]
    return SseToMetadata(
        response_rules=SseToMetadataProcessingRules(
            content_parser=TypedExtensionConfig(
                name="envoy.content_parsers.json", typed_config=packed(JsonContentParser(rules=rules))
            ),
            max_event_size=EVENT_BYTES_MAX,
        )
    )


def _rule(path: tuple[str, ...]) -> JsonToMetadataRule:
    """Write down what stands at a path, as it is: a number, a text, or (in an event) an object as JSON text."""
    return JsonToMetadataRule(
        selectors=[JsonToMetadataSelector(key=key) for key in path],
        on_present=JsonToMetadataKeyValuePair(metadata_namespace=USAGE_NAMESPACE, key=native_key(path)),
    )
