"""`python -m ext_proc.server NAME`: one worker process, its settings as JSON on its standard input.

NAME is for whoever reads the list of processes. A worker is often started before anybody knows what it will serve
(`supervisor/warm_workers.py`): the modules are loaded first, then the settings are waited for. Without any it ends.
"""

from __future__ import annotations

import gc
import sys


def main() -> None:
    """Until SIGTERM, or at once where whoever started it is not going to serve."""
    # What is loaded stays, with hardly any garbage in it: the collector would walk it a dozen times in vain.
    # `serve` freezes it and lets the collector begin.
    gc.disable()
    from ext_proc.server.worker import run  # noqa: PLC0415 - after that

    if told := sys.stdin.read():
        run(told)


if __name__ == "__main__":
    main()
