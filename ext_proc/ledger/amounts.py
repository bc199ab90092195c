"""The arithmetic of a posting, exact, shared by the model and (line for line, in doubles) by the scripts.

Redis counts in 64-bit integers but its scripts compare in doubles, which are exact up to 2^53 − 1: every amount, cap
and charge saturates there ($9,007,199 in nano-dollars). What saturates is refused by any smaller cap, never granted.
"""

from __future__ import annotations

from dataclasses import replace

from ext_proc.ledger.interface import Basis, Charge, Extension, Measure, Plan, Posting, Resolution

MAX_AMOUNT = 2**53 - 1
MAX_PER_OUTPUT_MILLI = 9 * 10**12
"""The dearest rate, 1/1000 step per output token ($9 a token): `milli × 999` stays exact in a double."""


def saturated(amount: int) -> int:
    """The amount, held within what a script compares exactly."""
    if 0 <= amount <= MAX_AMOUNT:
        return amount
    return 0 if amount < 0 else MAX_AMOUNT


def saturated_plan(plan: Plan) -> Plan:
    """The plan with its output range within what a script compares exactly."""
    return replace(plan, output_min=saturated(plan.output_min), output_max=saturated(plan.output_max))


def rate(posting: Posting) -> int:
    """The posting's `per_output_milli`, saturated."""
    return min(max(posting.per_output_milli, 0), MAX_PER_OUTPUT_MILLI)


def amount(posting: Posting, output: int) -> int:
    """What a posting asks at this output: fixed + ceil(per_output_milli × output / 1000), saturated."""
    return saturated(saturated(posting.fixed) + -(-rate(posting) * output // 1000))


def largest_output(posting: Posting, room: int, output_min: int, output_max: int) -> int:
    """The largest output in [min, max] whose amount fits in `room`. The caller has checked that `output_min` fits."""
    asked = amount(posting, output_max)
    if asked == 0 or asked <= room:
        return output_max
    affordable = (room - saturated(posting.fixed)) * 1000 // rate(posting)
    return min(max(affordable, output_min), output_max)


def extension_milli(extension: Extension, measure: Measure) -> int:
    """What each token of an extension adds to an account of this measure, in thousandths of its step, saturated."""
    match measure:
        case Measure.COST:
            return min(max(extension.cost_milli, 0), MAX_PER_OUTPUT_MILLI)
        case Measure.TOKENS | Measure.OUTPUT_TOKENS:
            return 1_000
        case Measure.INPUT_TOKENS | Measure.REQUESTS | Measure.CONCURRENT:
            return 0


def effective(resolution: Resolution) -> Charge:
    """What a resolution charges: a release nothing but requests."""
    charge = resolution.charge
    if resolution.basis is Basis.RELEASED:
        return Charge(requests=saturated(charge.requests))
    return Charge(
        cost_nanodollars=saturated(charge.cost_nanodollars),
        input_tokens=saturated(charge.input_tokens),
        output_tokens=saturated(charge.output_tokens),
        requests=saturated(charge.requests),
    )


def charged(charge: Charge, measure: Measure) -> int:
    """What a charge means to an account of this measure."""
    match measure:
        case Measure.COST:
            amount = charge.cost_nanodollars
        case Measure.TOKENS:
            amount = charge.input_tokens + charge.output_tokens
        case Measure.INPUT_TOKENS:
            amount = charge.input_tokens
        case Measure.OUTPUT_TOKENS:
            amount = charge.output_tokens
        case Measure.REQUESTS:
            amount = charge.requests
        case Measure.CONCURRENT:
            amount = 0
    return saturated(amount)
