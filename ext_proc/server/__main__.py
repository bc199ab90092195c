"""`python -m ext_proc.server NAME`: one worker process, its settings as JSON in the environment.

NAME is for whoever reads the list of processes.
"""

from __future__ import annotations

import os

import uvloop

from ext_proc.server.settings import SETTINGS_VARIABLE, WorkerSettings
from ext_proc.server.worker import serve
from ext_proc.telemetry.logs import configure

if __name__ == "__main__":
    configure()
    uvloop.run(serve(WorkerSettings.from_json(os.environ.pop(SETTINGS_VARIABLE))))
