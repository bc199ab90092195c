"""The whole configuration of one Envoy, as text."""

from __future__ import annotations

import hashlib

import yaml
from betterproto2 import Casing
from envoy_data_plane.envoy.config.bootstrap.v3 import (
    Admin,
    Bootstrap,
    BootstrapDynamicResources,
    BootstrapStaticResources,
)
from envoy_data_plane.envoy.config.core.v3 import ApiVersion, ConfigSource, Node, PathConfigSource
from envoy_data_plane.envoy.config.overload.v3 import (
    OverloadAction,
    OverloadManager,
    ResourceMonitor,
    ThresholdTrigger,
    Trigger,
)
from envoy_data_plane.envoy.extensions.resource_monitors.downstream_connections.v3 import DownstreamConnectionsConfig
from envoy_data_plane.envoy.extensions.resource_monitors.fixed_heap.v3 import FixedHeapConfig
from envoy_data_plane.envoy.service.discovery.v3 import DiscoveryResponse
from envoy_data_plane.google.protobuf import Any as PackedAny

from ext_proc.envoy_config.clusters import build_clusters, upstream_clusters
from ext_proc.envoy_config.listener import build_listener
from ext_proc.envoy_config.parts import address, packed, seconds
from ext_proc.envoy_config.settings import EnvoySettings, Limits
from ext_proc.envoy_config.tokens import followed_token_filter

HEAP_MONITOR = "envoy.resource_monitors.fixed_heap"


def render(settings: EnvoySettings) -> str:
    """YAML that Envoy starts from. Equal settings give equal bytes. Raises EnvoyConfigError."""
    document = build_bootstrap(settings).to_dict(casing=Casing.SNAKE)
    return yaml.safe_dump(document, sort_keys=False, width=120)


def render_clusters(settings: EnvoySettings) -> str:
    """The file that `clusters_file` names: YAML that a running Envoy takes up when it is renamed into place."""
    return _followed([packed(cluster) for cluster in upstream_clusters(settings)])


def render_tokens(settings: EnvoySettings) -> str:
    """The file that `tokens_file` names, likewise."""
    return _followed([packed(followed_token_filter(settings))])


def _followed(resources: list[PackedAny]) -> str:
    document = DiscoveryResponse(resources=resources).to_dict(casing=Casing.SNAKE)
    version = hashlib.blake2b(yaml.safe_dump(document).encode(), digest_size=8).hexdigest()
    return yaml.safe_dump({"version_info": version, **document}, sort_keys=False, width=120)


def build_bootstrap(settings: EnvoySettings) -> Bootstrap:
    """The typed form."""
    return Bootstrap(
        node=Node(id="tollgate", cluster="tollgate"),
        admin=None if settings.admin is None else Admin(address=address(settings.admin)),
        static_resources=BootstrapStaticResources(
            listeners=[build_listener(settings)], clusters=build_clusters(settings)
        ),
        dynamic_resources=None if settings.clusters_file is None else _dynamic(settings.clusters_file),
        overload_manager=build_overload_manager(settings.limits),
    )


def _dynamic(clusters_file: str) -> BootstrapDynamicResources:
    """Where requests go may change while Envoy runs. Whether a route exists never does: admit names the cluster."""
    return BootstrapDynamicResources(
        cds_config=ConfigSource(
            path_config_source=PathConfigSource(path=clusters_file), resource_api_version=ApiVersion.V3
        )
    )


def build_overload_manager(limits: Limits) -> OverloadManager:
    """Refuses early what would end in a crash."""
    connections = ResourceMonitor(
        name="envoy.resource_monitors.global_downstream_max_connections",
        typed_config=packed(DownstreamConnectionsConfig(max_active_downstream_connections=limits.connections)),
    )
    if limits.heap_bytes is None:
        return OverloadManager(resource_monitors=[connections])
    heap = ResourceMonitor(
        name=HEAP_MONITOR, typed_config=packed(FixedHeapConfig(max_heap_size_bytes=limits.heap_bytes))
    )
    return OverloadManager(
        refresh_interval=seconds(0.25),
        resource_monitors=[connections, heap],
        actions=[
            _above("envoy.overload_actions.shrink_heap", 0.9),
            _above("envoy.overload_actions.stop_accepting_requests", 0.95),
        ],
    )


def _above(action: str, share: float) -> OverloadAction:
    """An action that starts when this share of the heap is in use."""
    return OverloadAction(name=action, triggers=[Trigger(name=HEAP_MONITOR, threshold=ThresholdTrigger(value=share))])
