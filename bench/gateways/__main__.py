"""`./dev bench`: gateways side by side in one run, against one mock provider, on this machine.

What is on in each: Envoy alone and the do-nothing ext_proc have nothing; Tollgate has virtual keys, required tags, 50
rules about the request's cost center of which four match (three budgets and a rate limit in Redis), hold and settle,
journal and metrics; LiteLLM's proxy has its master key and no budgets (they need a database), one worker, production
mode. All get the same body, and answer from the same mock provider. CPU is read from the kernel's accounts of each
process; it is the figure to compare, because a machine that runs the load generator and the provider too is never idle.

wrk brings the load: Debian and Ubuntu have it (`sudo apt-get install wrk`). LiteLLM is installed by this command, from
PyPI, into an environment of its own under ~/.cache/tollgate-bench.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

from bench.errors import BenchError
from bench.gateways.measure import Bench, Plan
from bench.gateways.report import compare, goals, table
from bench.gateways.rival import find_or_install
from bench.machine import describe

QUICK = Plan(seconds=2.0, streams=200, first_tokens=50, starts=1, litellm=None)


def main() -> int:
    """The exit status: 0 also where goals are missed, which the table says."""
    args = _arguments()
    if args.compare:
        first, second = (json.loads(path.read_text()) for path in args.compare)
        print(compare(first, second))
        return 0
    rival = None if args.without_litellm or args.only_starts else find_or_install()
    allow_many_connections()
    litellm = rival[0] if rival else None
    plan = QUICK if args.quick else Plan(args.seconds, args.streams, args.first_tokens, args.starts, None)
    plan = replace(plan, litellm=litellm)
    if args.only_starts:
        print(*(f"{seconds:.2f} s" for seconds in Bench(plan).run_starts()))
        return 0
    result = {"machine": describe(), "litellm": rival[1] if rival else None, "plan": {**asdict(plan), "litellm": ""}}
    started = time.monotonic()
    try:
        result["rows"] = Bench(plan).run()
    except BenchError as error:
        print(f"./dev bench: {error}", file=sys.stderr)
        return 1
    result["took_seconds"] = round(time.monotonic() - started)
    result["goals"] = [
        {"goal": goal, "measured": measured, "holds": holds} for goal, measured, holds in goals(result["rows"])
    ]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(table(result))
    print(f"\nwritten: {args.out}")
    return 0


def allow_many_connections() -> None:
    """As many open files as this user may have, for this process and all that it starts."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="./dev bench", description="Gateways side by side on this machine.")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each load (default %(default)s)")
    parser.add_argument("--streams", type=int, default=5_000, metavar="N", help="held open (default %(default)s)")
    parser.add_argument("--first-tokens", type=int, default=300, metavar="N", help="waited for (default %(default)s)")
    parser.add_argument("--starts", type=int, default=3, metavar="N", help="of `tollgate serve` (default %(default)s)")
    parser.add_argument("--only-starts", action="store_true", help="measure those alone, print them, write nothing")
    parser.add_argument("--quick", action="store_true", help="every row, but short: figures to look at, not to quote")
    parser.add_argument("--without-litellm", action="store_true", help="do not install or run LiteLLM's proxy")
    parser.add_argument("--out", type=Path, default=Path("bench/results/latest.json"), help="default: %(default)s")
    parser.add_argument("--compare", type=Path, nargs=2, metavar=("A", "B"), help="set two results side by side")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
