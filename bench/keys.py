"""What knowing the caller adds to a request: CPU of one worker, per request, at several numbers of keys.

    python bench/keys.py

The whole of `resolve_caller` is measured (credential headers, hash, comparison, records, tags) against the same call
for a caller without a key, and the look-up of the key alone. `time.process_time` over many calls; the median of several
rounds.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from ext_proc.identity.administration import draw_key
from ext_proc.identity.identities import NO_RECORDS, Identities, Records
from ext_proc.identity.keys import KeyHash
from ext_proc.identity.records import KeyRecord, TeamRecord, TenantRecord
from ext_proc.identity.resolve import resolve_caller
from ext_proc.policy.loader import load_files
from ext_proc.policy.yaml_source import SourceFile

SECRET = b"0123456789abcdef0123456789abcdef"
CALLS, ROUNDS, NOW_US = 4_000, 9, 1_800_000_000_000_000
TAGS = '{"cost_center": "search", "repo": "ranking", "pipeline": "nightly", "workflow_id": "github-77-1"}'
HEADERS = [
    ("host", "llm.example.com"),
    ("user-agent", "OpenAI/Python 2.0"),
    ("content-type", "application/json"),
    ("accept", "application/json"),
    ("accept-encoding", "gzip, deflate"),
    ("x-stainless-lang", "python"),
    ("x-stainless-runtime", "CPython"),
    ("x-request-id", "f39f24df-ae94-44f6-9feb-3b7ae066594d"),
]
ALLOWING = b"name: identity\ntype: gateway-identity-config\nanonymous: allow\n"


def records(count: int, key: str) -> Records:
    """So many keys, the one that is used among them."""
    kept = KeyHash.keyed(key, SECRET)
    names = ["used", *(f"key-{number}" for number in range(count - 1))]
    keys = {
        name: KeyRecord(
            name, (kept,), team="search", tenant="acme", virtual_account="ci", tags={"cost_center": "search"}
        )
        for name in names
    }
    return Records(keys, {"search": TeamRecord("search", tags={"floor": "3"})}, {"acme": TenantRecord("acme", "pro")})


def microseconds(call: Callable[[], object]) -> float:
    """CPU per call: the median over rounds."""
    rounds = []
    for _ in range(ROUNDS):
        started = time.process_time()
        for _ in range(CALLS):
            call()
        rounds.append((time.process_time() - started) / CALLS * 1e6)
    return statistics.median(rounds)


def main() -> None:
    """Print the table."""
    snapshot = load_files([SourceFile("identity.yaml", ALLOWING)])
    key = draw_key("used")
    bearer = [*HEADERS, ("authorization", f"Bearer {key}"), ("x-tfy-metadata", TAGS)]
    anonymous = [*HEADERS, ("x-tfy-metadata", TAGS)]
    nobody = Identities.of(snapshot, NO_RECORDS, SECRET)
    before = microseconds(lambda: resolve_caller(anonymous, snapshot, nobody, now_us=NOW_US))
    print(f"a caller without a key: {before:.1f} µs")
    columns = ("keys", "caller µs", "key adds µs", "look-up µs", "wrong secret µs", "no such id µs")
    print("  ".join(f"{column:>15}" for column in columns))
    for count in (1, 1_000, 100_000):
        known = Identities.of(snapshot, records(count, key), SECRET)
        wrong, absent = draw_key("used"), draw_key("absent")
        whole = microseconds(lambda: resolve_caller(bearer, snapshot, known, now_us=NOW_US))  # noqa: B023  (called here)
        found = microseconds(lambda: known.verify(key, NOW_US))  # noqa: B023  (called here)
        mistaken = microseconds(lambda: known.verify(wrong, NOW_US))  # noqa: B023  (called here)
        unknown = microseconds(lambda: known.verify(absent, NOW_US))  # noqa: B023  (called here)
        figures = (whole, whole - before, found, mistaken, unknown)
        print("  ".join([f"{count:>15,}", *(f"{figure:>15.1f}" for figure in figures)]))


if __name__ == "__main__":
    main()
