"""Where Envoy connects to: the sidecar's workers, for processing and for logs, and the providers."""

from __future__ import annotations

from envoy_data_plane.envoy.config.cluster.v3 import (
    CircuitBreakers,
    CircuitBreakersThresholds,
    Cluster,
    ClusterCommonLbConfig,
    ClusterCustomClusterType,
    ClusterDiscoveryType,
    ClusterLbPolicy,
    OutlierDetection,
)
from envoy_data_plane.envoy.config.core.v3 import (
    DataSource,
    HealthCheck,
    HealthCheckGrpcHealthCheck,
    Http1ProtocolOptions,
    Http2ProtocolOptions,
    HttpProtocolOptions,
    TransportSocket,
)
from envoy_data_plane.envoy.config.endpoint.v3 import ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints
from envoy_data_plane.envoy.extensions.clusters.common.dns.v3 import DnsLookupFamily
from envoy_data_plane.envoy.extensions.clusters.composite.v3 import ClusterConfig as CompositeConfig
from envoy_data_plane.envoy.extensions.clusters.composite.v3 import ClusterConfigClusterEntry as ClusterEntry
from envoy_data_plane.envoy.extensions.clusters.dns.v3 import DnsCluster
from envoy_data_plane.envoy.extensions.transport_sockets.tls.v3 import (
    CertificateValidationContext,
    CommonTlsContext,
    SubjectAltNameMatcher,
    SubjectAltNameMatcherSanType,
    TlsParameters,
    TlsParametersTlsProtocol,
    UpstreamTlsContext,
)
from envoy_data_plane.envoy.extensions.upstreams.http.v3 import HttpProtocolOptions as UpstreamProtocolOptions
from envoy_data_plane.envoy.extensions.upstreams.http.v3 import (
    HttpProtocolOptionsAutoHttpConfig,
    HttpProtocolOptionsExplicitHttpConfig,
)
from envoy_data_plane.envoy.type.matcher.v3 import StringMatcher
from envoy_data_plane.envoy.type.v3 import Percent
from envoy_data_plane.google.protobuf import Any as PackedAny

from ext_proc.envoy_config.filters import WORKERS_CLUSTER, codec_filter, try_filters
from ext_proc.envoy_config.parts import address, packed, seconds, socket
from ext_proc.envoy_config.settings import (
    MEBIBYTE,
    NO_CLUSTER,
    RESERVED_PREFIX,
    Chain,
    EnvoySettings,
    UpstreamAccount,
    WorkerEndpoint,
)
from ext_proc.envoy_config.signing import chain_signing_filters, signing_filter

_PROTOCOL_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def log_cluster_name(worker: WorkerEndpoint) -> str:
    """The cluster that one worker's log records go to."""
    return f"{RESERVED_PREFIX}log-{worker.name}"


def build_clusters(settings: EnvoySettings) -> list[Cluster]:
    """Every cluster of a configuration."""
    return [
        workers_cluster(settings),
        *(log_cluster(settings, worker) for worker in settings.workers),
        Cluster(name=NO_CLUSTER, load_assignment=ClusterLoadAssignment(cluster_name=NO_CLUSTER)),
        *([] if settings.clusters_file else upstream_clusters(settings)),
    ]


def upstream_clusters(settings: EnvoySettings) -> list[Cluster]:
    """What a policy set says of where requests go: the part that changes while Envoy runs."""
    return [
        *(account_cluster(settings, account) for account in settings.accounts),
        *(chain_cluster(settings, chain) for chain in settings.chains),
        *(account_cluster(settings, server) for server in key_servers(settings)),
    ]


def key_servers(settings: EnvoySettings) -> tuple[UpstreamAccount, ...]:
    """The servers that publish the keys of token issuers, each once."""
    servers = (issuer.key_server for issuer in settings.token_issuers)
    return tuple(dict.fromkeys(server for server in servers if server is not None))


def chain_cluster(settings: EnvoySettings, chain: Chain) -> Cluster:
    """The n-th attempt goes to the n-th account. Filters of attempts count here only, not on the accounts' clusters."""
    count = settings.limits.upstream_requests
    breakers = CircuitBreakersThresholds(
        max_connections=count,
        max_pending_requests=count,
        max_requests=count,
        # Three by default: when a provider fails, every request is retried at once.
        max_retries=count,
    )
    return Cluster(
        name=chain.name,
        connect_timeout=seconds(settings.timeouts.connect),
        lb_policy=ClusterLbPolicy.CLUSTER_PROVIDED,
        cluster_type=ClusterCustomClusterType(
            name="envoy.clusters.composite",
            typed_config=packed(CompositeConfig(clusters=[ClusterEntry(name=name) for name in chain.accounts])),
        ),
        circuit_breakers=CircuitBreakers(thresholds=[breakers]),
        typed_extension_protocol_options=_protocol(
            UpstreamProtocolOptions(
                common_http_protocol_options=HttpProtocolOptions(max_stream_duration=seconds(settings.timeouts.stream)),
                explicit_http_config=HttpProtocolOptionsExplicitHttpConfig(
                    http_protocol_options=Http1ProtocolOptions()
                ),
                http_filters=[*try_filters(settings), *chain_signing_filters(_signed(settings, chain)), codec_filter()],
            )
        ),
    )


def _signed(settings: EnvoySettings, chain: Chain) -> tuple[UpstreamAccount, ...]:
    """The accounts of a chain whose requests are signed."""
    return tuple(account for account in settings.accounts if account.signing and account.name in chain.accounts)


def workers_cluster(settings: EnvoySettings) -> Cluster:
    """All workers, one endpoint each: balanced per stream, where SO_REUSEPORT would pin Envoy to one process."""
    cluster = _sidecar_cluster(settings, WORKERS_CLUSTER, [settings.workers])
    # A request opens two streams, admit's and meter's. Of two workers in turn, one would get every admit. Streams also
    # differ in length by minutes, so what counts is how many a worker has open.
    cluster.lb_policy = ClusterLbPolicy.LEAST_REQUEST
    return cluster


def log_cluster(settings: EnvoySettings, worker: WorkerEndpoint) -> Cluster:
    """One worker for its own records; the others take them when it is gone."""
    others = tuple(other for other in settings.workers if other != worker)
    return _sidecar_cluster(settings, log_cluster_name(worker), [(worker,), others])


def _sidecar_cluster(settings: EnvoySettings, name: str, by_priority: list[tuple[WorkerEndpoint, ...]]) -> Cluster:
    return Cluster(
        name=name,
        connect_timeout=seconds(0.3),
        load_assignment=ClusterLoadAssignment(
            cluster_name=name,
            endpoints=[
                LocalityLbEndpoints(
                    priority=priority,
                    lb_endpoints=[LbEndpoint(endpoint=Endpoint(address=address(worker.address))) for worker in workers],
                )
                for priority, workers in enumerate(by_priority)
                if workers
            ],
        ),
        health_checks=[_health_check()],
        # An unhealthy worker is never better than none: with none, requests are refused with a clear answer.
        common_lb_config=ClusterCommonLbConfig(healthy_panic_threshold=Percent(value=0)),
        outlier_detection=_outlier_detection(),
        circuit_breakers=_circuit_breakers(settings),
        typed_extension_protocol_options=_protocol(
            UpstreamProtocolOptions(
                explicit_http_config=HttpProtocolOptionsExplicitHttpConfig(
                    http2_protocol_options=Http2ProtocolOptions(
                        max_concurrent_streams=1024,
                        initial_stream_window_size=MEBIBYTE,
                        initial_connection_window_size=16 * MEBIBYTE,
                    )
                )
            )
        ),
    )


def _outlier_detection() -> OutlierDetection:
    """One failed connection takes a worker out for two seconds: sooner than the health check finds it dead."""
    return OutlierDetection(
        split_external_local_origin_errors=True,
        consecutive_local_origin_failure=1,
        enforcing_consecutive_local_origin_failure=100,
        # With two workers and 50 % or less, one dead worker could not be ejected while the other is suspect.
        max_ejection_percent=90,
        base_ejection_time=seconds(2),
        interval=seconds(1),
    )


def _health_check() -> HealthCheck:
    """A worker that does not serve yet, or again, is asked four times as often: what it costs is a refused connection,
    and what it saves is most of a second of every start.
    """
    return HealthCheck(
        timeout=seconds(0.5),
        interval=seconds(1),
        unhealthy_interval=seconds(0.25),
        no_traffic_interval=seconds(0.25),
        no_traffic_healthy_interval=seconds(1),
        unhealthy_threshold=1,
        healthy_threshold=1,
        grpc_health_check=HealthCheckGrpcHealthCheck(),
    )


def account_cluster(settings: EnvoySettings, account: UpstreamAccount) -> Cluster:
    """One provider account."""
    cluster = Cluster(
        name=account.name,
        connect_timeout=seconds(settings.timeouts.connect),
        circuit_breakers=_circuit_breakers(settings),
        load_assignment=ClusterLoadAssignment(
            cluster_name=account.name,
            endpoints=[LocalityLbEndpoints(lb_endpoints=[LbEndpoint(endpoint=_endpoint(account))])],
        ),
        typed_extension_protocol_options=_protocol(_account_protocol(settings, account)),
    )
    if account.is_address:
        cluster.type = ClusterDiscoveryType.STATIC
    else:
        cluster.cluster_type = ClusterCustomClusterType(name="envoy.clusters.dns", typed_config=packed(_resolution()))
    if account.secure:
        cluster.transport_socket = TransportSocket(
            name="envoy.transport_sockets.tls", typed_config=packed(_tls(settings, account))
        )
    return cluster


def _resolution() -> DnsCluster:
    return DnsCluster(
        respect_dns_ttl=True,
        # AUTO takes an IPv6 address wherever there is one, also on the many networks that cannot route it.
        dns_lookup_family=DnsLookupFamily.V4_PREFERRED,
        # A big provider answers each look-up with other addresses: connections to the former ones stay in use.
        all_addresses_in_single_endpoint=True,
    )


def _endpoint(account: UpstreamAccount) -> Endpoint:
    return Endpoint(address=socket(account.host, account.port), hostname=account.authority)


def _account_protocol(settings: EnvoySettings, account: UpstreamAccount) -> UpstreamProtocolOptions:
    common = HttpProtocolOptions(
        # Shorter than the keep-alive of the common load balancers, so that no request meets a connection being closed.
        idle_timeout=seconds(45),
        # Here and not on the route or the connection manager: only this limit leaves a flag in the access log.
        max_stream_duration=seconds(settings.timeouts.stream),
    )
    filters = [signing_filter(account), codec_filter()] if account.signing else []
    if account.secure:
        return UpstreamProtocolOptions(
            common_http_protocol_options=common,
            auto_config=HttpProtocolOptionsAutoHttpConfig(),
            http_filters=filters,
        )
    return UpstreamProtocolOptions(
        common_http_protocol_options=common,
        explicit_http_config=HttpProtocolOptionsExplicitHttpConfig(http_protocol_options=Http1ProtocolOptions()),
        http_filters=filters,
    )


def _tls(settings: EnvoySettings, account: UpstreamAccount) -> UpstreamTlsContext:
    san_type = SubjectAltNameMatcherSanType.IP_ADDRESS if account.is_address else SubjectAltNameMatcherSanType.DNS
    return UpstreamTlsContext(
        sni="" if account.is_address else account.host,
        common_tls_context=CommonTlsContext(
            tls_params=TlsParameters(tls_minimum_protocol_version=TlsParametersTlsProtocol.TLSv1_2),
            validation_context=CertificateValidationContext(
                trusted_ca=DataSource(filename=settings.ca_bundle),
                match_typed_subject_alt_names=[
                    SubjectAltNameMatcher(san_type=san_type, matcher=StringMatcher(exact=account.host))
                ],
            ),
        ),
    )


def _circuit_breakers(settings: EnvoySettings) -> CircuitBreakers:
    count = settings.limits.upstream_requests
    return CircuitBreakers(
        thresholds=[CircuitBreakersThresholds(max_connections=count, max_pending_requests=count, max_requests=count)]
    )


def _protocol(options: UpstreamProtocolOptions) -> dict[str, PackedAny]:
    return {_PROTOCOL_OPTIONS: packed(options)}
