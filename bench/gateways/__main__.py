"""`./dev bench`: gateways side by side in one run, against one mock provider, on this machine.

What is on in each: Envoy alone and the do-nothing ext_proc have nothing; Tollgate has virtual keys, required tags, 50
rules about the request's cost center of which four match (three budgets and a rate limit in Redis), hold and settle,
journal and metrics; LiteLLM's proxy has its master key and no budgets (they need a database), one worker, production
mode. All get the same body, and answer from the same mock provider. CPU is read from the kernel's accounts of each
process; it is the figure to compare, because a machine that runs the load generator and the provider too is never idle.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from bench.errors import BenchError
from bench.gateways.measure import Bench, Plan
from bench.gateways.report import compare, table
from bench.gateways.rival import find_or_install
from bench.machine import describe


def main() -> int:
    """The exit status: 0 also where goals are missed, which the table says."""
    args = _arguments()
    if args.compare:
        first, second = (json.loads(path.read_text()) for path in args.compare)
        print(compare(first, second))
        return 0
    rival = None if args.without_litellm else find_or_install()
    plan = Plan(args.seconds, args.streams, args.first_tokens, rival[0] if rival else None)
    result = {"machine": describe(), "litellm": rival[1] if rival else None, "seconds": args.seconds}
    started = time.monotonic()
    try:
        result["rows"] = Bench(plan).run()
    except BenchError as error:
        print(f"./dev bench: {error}", file=sys.stderr)
        return 1
    result["took_seconds"] = round(time.monotonic() - started)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(table(result))
    print(f"\nwritten: {args.out}")
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="./dev bench", description="Gateways side by side on this machine.")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each load (default %(default)s)")
    parser.add_argument("--streams", type=int, default=500, metavar="N", help="held open (default %(default)s)")
    parser.add_argument("--first-tokens", type=int, default=300, metavar="N", help="waited for (default %(default)s)")
    parser.add_argument("--without-litellm", action="store_true", help="do not install or run LiteLLM's proxy")
    parser.add_argument("--out", type=Path, default=Path("bench/results/latest.json"), help="default: %(default)s")
    parser.add_argument("--compare", type=Path, nargs=2, metavar=("A", "B"), help="set two results side by side")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
