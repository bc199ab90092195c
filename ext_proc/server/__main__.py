"""`python -m ext_proc.server '<WorkerSettings as JSON>'`: one worker process."""

from __future__ import annotations

import sys

import uvloop

from ext_proc.server.settings import WorkerSettings
from ext_proc.server.worker import serve
from ext_proc.telemetry.logs import configure

if __name__ == "__main__":
    configure()
    uvloop.run(serve(WorkerSettings.from_json(sys.argv[1])))
