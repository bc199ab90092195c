"""The messages that Envoy and we exchange: compiled from proto/ by `python proto/generate.py`; do not edit.

Every full method name that we serve or call stands here; a test holds them against the compiled services.
"""

from __future__ import annotations

from typing import Final

EXT_PROC_SERVICE: Final = "envoy.service.ext_proc.v3.ExternalProcessor"
ACCESS_LOG_SERVICE: Final = "envoy.service.accesslog.v3.AccessLogService"
HEALTH_SERVICE: Final = "grpc.health.v1.Health"

PROCESS_METHOD: Final = f"/{EXT_PROC_SERVICE}/Process"
STREAM_ACCESS_LOGS_METHOD: Final = f"/{ACCESS_LOG_SERVICE}/StreamAccessLogs"
HEALTH_CHECK_METHOD: Final = f"/{HEALTH_SERVICE}/Check"
HEALTH_WATCH_METHOD: Final = f"/{HEALTH_SERVICE}/Watch"
