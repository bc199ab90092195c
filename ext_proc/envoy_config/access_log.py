"""The access log: the universal end of every request, and the beat that keeps its hold alive."""

from __future__ import annotations

from envoy_data_plane.envoy.config.accesslog.v3 import (
    AccessLog,
    AccessLogFilter,
    AndFilter,
    LogTypeFilter,
    MetadataFilter,
)
from envoy_data_plane.envoy.config.core.v3 import ApiVersion, RetryPolicy
from envoy_data_plane.envoy.data.accesslog.v3 import AccessLogType
from envoy_data_plane.envoy.extensions.access_loggers.grpc.v3 import CommonGrpcAccessLogConfig, HttpGrpcAccessLogConfig
from envoy_data_plane.envoy.type.matcher.v3 import (
    MetadataMatcher,
    MetadataMatcherPathSegment,
    StringMatcher,
    ValueMatcher,
)

from ext_proc.envoy_config.clusters import log_cluster_name
from ext_proc.envoy_config.contract import ENCODING_HEADER, WORKER_KEY
from ext_proc.envoy_config.parts import grpc, packed, seconds
from ext_proc.envoy_config.settings import EnvoySettings, WorkerEndpoint
from ext_proc.exchange.ticket import NAMESPACE
from ext_proc.server.settings import Metering

RENEWALS_PER_LEASE = 4
STREAM_RETRIES = 3


def build_access_logs(settings: EnvoySettings) -> list[AccessLog]:
    """One logger per worker: a single one would send all records of an Envoy thread to one worker."""
    native = settings.metering is Metering.NATIVE
    return [worker_log(worker, first=index == 0, native=native) for index, worker in enumerate(settings.workers)]


def worker_log(worker: WorkerEndpoint, *, first: bool, native: bool) -> AccessLog:
    """The records of what this worker admitted. The first also takes those of requests that no worker marked."""
    return AccessLog(
        name=f"tollgate.log-{worker.name}",
        filter=AccessLogFilter(
            and_filter=AndFilter(
                filters=[
                    AccessLogFilter(
                        log_type_filter=LogTypeFilter(
                            types=[AccessLogType.DownstreamEnd, AccessLogType.DownstreamPeriodic]
                        )
                    ),
                    AccessLogFilter(metadata_filter=_admitted_by(worker, first=first)),
                ]
            )
        ),
        typed_config=packed(
            HttpGrpcAccessLogConfig(
                common_config=CommonGrpcAccessLogConfig(
                    log_name=worker.name,
                    grpc_service=grpc(log_cluster_name(worker)),
                    transport_api_version=ApiVersion.V3,
                    # Sent one by one, records would cost a fifth more of all CPU per request. Where the next request
                    # depends on this charge, admit has meter settle.
                    buffer_flush_interval=seconds(0.1),
                    # A worker that just died is in the cluster until its health check fails. Without a retry, which
                    # the log cluster's outlier detection sends to another worker, that second's records are lost.
                    grpc_stream_retry_policy=RetryPolicy(num_retries=STREAM_RETRIES),
                ),
                additional_response_headers_to_log=[ENCODING_HEADER] if native else [],
            )
        ),
    )


def _admitted_by(worker: WorkerEndpoint, *, first: bool) -> MetadataFilter:
    return MetadataFilter(
        matcher=MetadataMatcher(
            filter=NAMESPACE,
            path=[MetadataMatcherPathSegment(key=WORKER_KEY)],
            value=ValueMatcher(string_match=StringMatcher(exact=worker.name)),
        ),
        match_if_key_not_found=first,
    )
