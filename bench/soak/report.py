"""The soak's report, as text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def text(result: Mapping[str, Any]) -> str:
    """All of it but the memory series, which are in the JSON."""
    return "\n".join(_lines(result))


def _lines(result: Mapping[str, Any]) -> Iterator[str]:
    plan, books = result["plan"], result["books"]
    yield "machine: " + ", ".join(f"{name} {value}" for name, value in result["machine"].items())
    yield (
        f"{plan['seconds'] / 60:g} minutes at {plan['rate']:g} requests/s, seed {plan['seed']}, "
        f"{plan['options']['workers']} workers, {plan['options']['metering']} metering; "
        f"{result['requests']:,} requests, {result['left_out']} left out because too many were under way"
    )
    yield "\nDisturbed:"
    for one in result["disruptions"]:
        took = one["ended"] - one["began"]
        yield f"  at {one['began']:6.0f} s  {one['service']:<7} {one['signal']}, whole after {took:5.1f} s"
    yield "\nWhat clients saw, by kind of request:"
    for kind, seen in result["by_kind"].items():
        yield f"  {kind:<36} " + ", ".join(f"{count:,} × {status}" for status, count in seen.items())
    yield "\nThe journal:"
    for basis, row in books["by_basis"].items():
        yield f"  {basis:<22} {row['entries']:>9,} entries {row['nanodollars']:>18,} nano-dollars"
    yield "\nThe sums, in nano-dollars:"
    for name, value in books["totals"].items():
        yield f"  {name:<26} {value:>20,}"
    yield "\nExplained by what was disturbed, or by what the client or the provider did:"
    for what, count in sorted(books["explained"].items()):
        yield f"  {count:>7,} × {what}"
    yield "\nMemory in the undisturbed half (KiB; slope through its last two thirds):"
    for name, one in result["memory"].items():
        yield (
            f"  {name:<20} {one['before_kib']:>9,} → {one['after_kib']:>9,}  "
            f"{one['slope_kib_per_minute']:>8.1f} KiB/min {one['slope_bytes_per_request']:>8.1f} bytes/request  "
            f"may grow by {one['allowed_kib']:,}"
        )
    yield ""
    findings = result["findings"]
    if not findings:
        yield "It balances: every request, account and byte is accounted for."
        return
    yield f"IT DOES NOT BALANCE: {len(findings)} findings"
    yield from (f"  {one}" for one in findings[:50])
