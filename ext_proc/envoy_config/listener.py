"""The listener that clients talk to, hardened for the edge."""

from __future__ import annotations

from envoy_data_plane.envoy.config.core.v3 import (
    DataSource,
    Http2ProtocolOptions,
    HttpProtocolOptions,
    HttpProtocolOptionsHeadersWithUnderscoresAction,
    TransportSocket,
)
from envoy_data_plane.envoy.config.listener.v3 import Filter, FilterChain, Listener
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import (
    HttpConnectionManager,
    HttpConnectionManagerHcmAccessLogOptions,
    HttpConnectionManagerPathWithEscapedSlashesAction,
    HttpConnectionManagerServerHeaderTransformation,
)
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import (
    HttpConnectionManagerForwardClientCertDetails as CertificateDetails,
)
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import (
    HttpConnectionManagerSetCurrentClientCertDetails as CertificateParts,
)
from envoy_data_plane.envoy.extensions.transport_sockets.tls.v3 import (
    CertificateValidationContext,
    CommonTlsContext,
    DownstreamTlsContext,
    TlsCertificate,
    TlsParameters,
    TlsParametersTlsProtocol,
)

from ext_proc.envoy_config.access_log import RENEWALS_PER_LEASE, build_access_logs
from ext_proc.envoy_config.filters import build_filters, strip_control_headers
from ext_proc.envoy_config.local_replies import build_local_replies
from ext_proc.envoy_config.parts import packed, seconds, socket
from ext_proc.envoy_config.routes import build_routes
from ext_proc.envoy_config.settings import MEBIBYTE, EnvoySettings
from ext_proc.listener_tls import ListenerTls


def build_listener(settings: EnvoySettings) -> Listener:
    """The one listener of a configuration."""
    return Listener(
        name="tollgate",
        address=socket(settings.listen_host, settings.listen_port),
        per_connection_buffer_limit_bytes=settings.limits.connection_buffer_bytes,
        filter_chains=[
            FilterChain(
                transport_socket=None if settings.tls is None else _tls(settings.tls),
                filters=[
                    Filter(
                        name="envoy.filters.network.http_connection_manager",
                        typed_config=packed(build_connection_manager(settings)),
                    )
                ],
            )
        ],
    )


def _tls(tls: ListenerTls) -> TransportSocket:
    """A client may show a certificate and need not: a key or a token says who calls as well."""
    clients = None if tls.client_ca is None else CertificateValidationContext(trusted_ca=_file(tls.client_ca))
    context = DownstreamTlsContext(
        common_tls_context=CommonTlsContext(
            tls_params=TlsParameters(tls_minimum_protocol_version=TlsParametersTlsProtocol.TLSv1_2),
            tls_certificates=[
                TlsCertificate(certificate_chain=_file(tls.certificate), private_key=_file(tls.key)),
            ],
            validation_context=clients,
            alpn_protocols=["h2", "http/1.1"],
        )
    )
    return TransportSocket(name="envoy.transport_sockets.tls", typed_config=packed(context))


def _file(path: str) -> DataSource:
    return DataSource(filename=path)


def build_connection_manager(settings: EnvoySettings) -> HttpConnectionManager:
    """HTTP as clients may speak it. No upgrades: a buffered body would hang one."""
    timeouts = settings.timeouts
    shows_certificates = settings.tls is not None and settings.tls.client_ca is not None
    return HttpConnectionManager(
        stat_prefix="tollgate",
        route_config=build_routes(settings),
        http_filters=build_filters(settings),
        access_log=build_access_logs(settings),
        access_log_options=HttpConnectionManagerHcmAccessLogOptions(
            access_log_flush_interval=seconds(settings.hold_lease_seconds / RENEWALS_PER_LEASE)
        ),
        local_reply_config=build_local_replies(settings),
        early_header_mutation_extensions=[strip_control_headers()],
        # At the edge: the client's address is the socket's, and a client cannot choose its request id.
        use_remote_address=True,
        # What a client says of certificates is dropped; what its own says, where it has shown one, is told to admit.
        forward_client_cert_details=CertificateDetails.SANITIZE_SET
        if shows_certificates
        else CertificateDetails.SANITIZE,
        set_current_client_cert_details=CertificateParts(subject=True, uri=True, dns=True)
        if shows_certificates
        else None,
        # Two spellings of one path must not meet two rules.
        normalize_path=True,
        merge_slashes=True,
        path_with_escaped_slashes_action=HttpConnectionManagerPathWithEscapedSlashesAction.REJECT_REQUEST,
        server_header_transformation=HttpConnectionManagerServerHeaderTransformation.PASS_THROUGH,
        common_http_protocol_options=HttpProtocolOptions(
            # Harmless here, since no header of ours is looked up with underscores, and some clients send them.
            headers_with_underscores_action=HttpProtocolOptionsHeadersWithUnderscoresAction.ALLOW,
        ),
        http2_protocol_options=Http2ProtocolOptions(
            max_concurrent_streams=settings.limits.streams_per_connection,
            initial_stream_window_size=MEBIBYTE,
            initial_connection_window_size=16 * MEBIBYTE,
        ),
        stream_idle_timeout=seconds(timeouts.stream_idle),
        request_timeout=seconds(timeouts.request),
        request_headers_timeout=seconds(timeouts.request_headers),
        drain_timeout=seconds(timeouts.drain),
    )
