"""Tables: of one run, of the goals it met, and of two runs side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Rows = Mapping[str, Mapping[str, Any]]

NATIVE, STREAM = "Tollgate native, 1 worker", "Tollgate stream, 1 worker"
FLOOR, ALONE = "do-nothing ext_proc", "Envoy alone"


def table(result: Mapping[str, Any]) -> str:
    """One run."""
    rows: Rows = result["rows"]
    machine = ", ".join(f"{name} {value}" for name, value in result["machine"].items())
    lines = [
        f"machine: {machine}",
        "",
        "Plain JSON, 1 KB prompt, as much load as wrk brings (CPU in µs per request):",
        "",
    ]
    lines.append(f"{'':<30}{'req/s':>8}{'Envoy':>8}{'sidecar':>9}{'Redis':>7}{'proxy':>8}{'sum':>8}{'errors':>8}")
    for name, row in rows.items():
        if "plain" not in row:
            continue
        plain = row["plain"]
        used = plain["cpu_us"]
        cells = [f"{used[group]:.0f}" if group in used else "·" for group in ("envoy", "sidecar", "redis", "proxy")]
        lines.append(
            f"{name:<30}{plain['rate']:>8.0f}{cells[0]:>8}{cells[1]:>9}{cells[2]:>7}{cells[3]:>8}{total(row):>8.0f}"
            f"{plain['refused'] + plain['broken']:>8}"
        )
    lines += ["", "Streams (CPU in µs per chunk; time to the first token, and latency at half load, in µs):", ""]
    lines.append(f"{'':<30}{'Envoy':>8}{'sidecar':>9}{'TTFT p50':>10}{'p95':>8}{'half p50':>10}{'p95':>8}{'p99':>8}")
    for name, row in rows.items():
        if "per chunk" in row:
            chunk, first, half = row["per chunk"], row["first token"], row.get("half load", {})
            lines.append(
                f"{name:<30}{chunk['envoy']:>8.1f}{chunk.get('sidecar', 0):>9.1f}"
                f"{first['p50']:>10.0f}{first['p95']:>8.0f}"
                f"{half.get('p50_us', 0):>10}{half.get('p95_us', 0):>8}{half.get('p99_us', 0):>8}"
            )
    lines += ["", f"{'goal':<58}{'measured':>18}  holds", *(_goal_line(*goal) for goal in goals(rows))]
    return "\n".join(lines)


def total(row: Mapping[str, Any]) -> float:
    """CPU of a gateway per request, without the provider's."""
    return float(sum(used for group, used in row["plain"]["cpu_us"].items() if group != "provider"))


def goals(rows: Rows) -> Iterator[tuple[str, str, bool]]:
    """What was wanted, what was measured, whether it holds."""
    native, stream, floor, alone = rows[NATIVE], rows[STREAM], rows[FLOOR], rows[ALONE]
    share = floor["plain"]["cpu_us"]["sidecar"] / native["plain"]["cpu_us"]["sidecar"]
    yield "requests per sidecar core ≥ 75 % of the do-nothing floor", f"{share:.0%}", share >= 0.75
    per_core = 1e6 / native["plain"]["cpu_us"]["sidecar"]
    yield "requests per sidecar core ≥ 3,500/s", f"{per_core:,.0f}/s", per_core >= 3_500
    if "LiteLLM" in rows:
        ratio = total(rows["LiteLLM"]) / total(native)
        yield "CPU per request ≤ 1/10 of LiteLLM's", f"1/{ratio:.1f}", ratio >= 10
    pinned = rows["Tollgate native, one core"]
    rate, errors = pinned["plain"]["rate"], pinned["plain"]["refused"] + pinned["plain"]["broken"]
    yield "all on one core: ≥ 1,400 requests/s, no errors", f"{rate:,.0f}/s, {errors}", rate >= 1_400 and not errors
    added = (pinned["at 350/s"]["p95_us"] - rows["Envoy alone, one core"]["at 350/s"]["p95_us"]) / 1e3
    yield "all on one core, 350 requests/s: added p95 ≤ 2 ms", f"{added:.1f} ms", added <= 2
    added = (pinned["at 90 %"]["p95_us"] - rows["Envoy alone, one core"]["at 90 %"]["p95_us"]) / 1e3
    at = f"{pinned['at 90 %']['rate']:,.0f}"
    yield "all on one core, 90 % of saturation: added p95 ≤ 10 ms", f"{added:.1f} ms at {at}/s", added <= 10
    for percentile, limit in (("p50_us", 1), ("p99_us", 3)):
        added = (native["half load"][percentile] - alone["half load"][percentile]) / 1e3
        yield f"half load: added {percentile[:3]} ≤ {limit} ms", f"{added:.1f} ms", added <= limit
    for percentile, limit in (("p50", 1), ("p95", 3)):
        added = (native["first token"][percentile] - alone["first token"][percentile]) / 1e3
        yield f"time to first token: added {percentile} ≤ {limit} ms", f"{added:.1f} ms", added <= limit
    python, envoy = native["per chunk"]["sidecar"], native["per chunk"]["envoy"] / alone["per chunk"]["envoy"]
    yield "per chunk, native: no Python (≤ 1 µs)", f"{python:.1f} µs", python <= 1
    yield "per chunk, native: Envoy ≤ 2 × its own", f"{envoy:.1f} ×", envoy <= 2
    python = stream["per chunk"]["sidecar"]
    yield "per chunk, stream: ≤ 60 µs Python", f"{python:.0f} µs", python <= 60
    kept = native["open stream bytes"]["sidecar"] / 1024
    yield "open stream, native: nothing in Python (≤ 1 KiB)", f"{kept:.1f} KiB", kept <= 1
    ratio = stream["open stream bytes"]["sidecar"] / floor["open stream bytes"]["sidecar"]
    yield "open stream, stream: ≤ 1.5 × a do-nothing stream", f"{ratio:.2f} ×", ratio <= 1.5
    few, many = (rows[f"Tollgate native, {n} rules"]["plain"]["cpu_us"]["sidecar"] for n in ("10", "10,000"))
    yield "10,000 rules within 1.2 × of 10 rules", f"{many / few:.2f} ×", many / few <= 1.2
    scale = rows["Tollgate native, 2 workers"]["plain"]["rate"] / native["plain"]["rate"]
    yield "two workers ≥ 1.8 × one, where cores allow", f"{scale:.2f} ×", scale >= 1.8
    if taken := rows.get("tollgate serve", {}).get("seconds to first answer"):
        yield "first answer after `tollgate serve` < 2 s", f"{min(taken):.1f} s", min(taken) < 2


def compare(first: Mapping[str, Any], second: Mapping[str, Any]) -> str:
    """Two results: CPU and rate of plain requests, then the goals. Only rows that both have."""
    lines = [f"{'':<30}{'req/s A':>9}{'B':>9}{'B/A':>7}{'CPU A':>9}{'B':>9}{'B/A':>7}"]
    for name in first["rows"]:
        a, b = first["rows"][name], second["rows"].get(name, {})
        if "plain" in a and "plain" in b:
            rates, used = (a["plain"]["rate"], b["plain"]["rate"]), (total(a), total(b))
            lines.append(
                f"{name:<30}{rates[0]:>9.0f}{rates[1]:>9.0f}{rates[1] / rates[0]:>7.2f}"
                f"{used[0]:>9.0f}{used[1]:>9.0f}{used[1] / used[0]:>7.2f}"
            )
    met = ({goal: (measured, holds) for goal, measured, holds in goals(one["rows"])} for one in (first, second))
    a_met, b_met = met
    lines += ["", f"{'goal':<58}{'A':>18}{'B':>18}"]
    lines += [f"{goal:<58}{a_met[goal][0]:>18}{b_met[goal][0]:>18}" for goal in a_met if goal in b_met]
    return "\n".join(lines)


def _goal_line(goal: str, measured: str, holds: bool) -> str:
    return f"{goal:<58}{measured:>18}  {'yes' if holds else 'NO'}"
