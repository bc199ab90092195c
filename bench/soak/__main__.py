"""`./dev soak`: mixed traffic against the whole stack while its parts are killed; at the end the books and the memory.

In the first half of the run workers, Redis and Envoy are killed and stopped, one at a time; in the second the same
traffic goes on undisturbed, and memory must be flat there. The provider is the mock provider, in this process, so that
its bill is known. Exit status 1 where a single nano-dollar, client error or mebibyte is not explained.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import uvloop

from bench.errors import BenchError
from bench.soak.report import text
from bench.soak.run import Plan, Soak
from bench.soak.stack import Options


def main() -> int:
    """The exit status."""
    args = _arguments()
    options = Options(args.workers, args.metering, args.hold_lease)
    plan = Plan(args.minutes * 60, args.rate, args.seed, options)
    with tempfile.TemporaryDirectory(prefix="tg-soak-") as directory:
        try:
            result = uvloop.run(Soak(plan, Path(directory)).run())
        except BenchError as error:
            print(f"./dev soak: {error}", file=sys.stderr)
            return 1
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(text(result))
    print(f"\nwritten: {args.out}")
    return 0 if result["ok"] else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="./dev soak", description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60.0, metavar="N", help="of traffic (default %(default)g)")
    parser.add_argument("--rate", type=float, default=40.0, metavar="N", help="requests a second (default %(default)g)")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of traffic and kills (default %(default)s)")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="default %(default)s")
    parser.add_argument("--metering", choices=["stream", "native"], default="native", help="default %(default)s")
    parser.add_argument("--hold-lease", type=int, default=20, metavar="SECONDS", help="default %(default)s")
    parser.add_argument("--out", type=Path, default=Path("bench/results/soak.json"), help="default: %(default)s")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
