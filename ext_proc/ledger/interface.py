"""The ledger's promises, as types: what is asked, what is answered, and every result code.

The memory model (`ledger.memory`) is the specification of these promises, the Redis ledger (`ledger.redis_ledger`)
keeps them for many processes at once. All money is integer nano-dollars, all tokens and requests are
integers; times are Redis time in microseconds. Ids are ours and carry their mint time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, Final, Protocol


class Measure(StrEnum):
    """What an account counts. The smallest step is a nano-dollar for COST, one token or request otherwise."""

    COST = "cost"
    TOKENS = "tokens"
    INPUT_TOKENS = "input_tokens"
    OUTPUT_TOKENS = "output_tokens"
    REQUESTS = "requests"
    CONCURRENT = "concurrent_requests"


class WindowKind(StrEnum):
    """How an account forgets."""

    CALENDAR = "calendar"  # a calendar period in the rule's time zone
    LIFETIME = "lifetime"  # never, until idle
    SLIDING = "sliding"  # at no moment more than the cap in the last period
    OPEN = "open"  # counts what is in flight only (concurrent_requests)


class Period(StrEnum):
    """The length of a window. SECOND and MINUTE slide only; WEEK, MONTH and QUARTER are calendar only."""

    SECOND = "second"
    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"
    WEEK = "week"  # from Monday
    MONTH = "month"
    QUARTER = "quarter"


@dataclass(frozen=True, slots=True)
class Window:
    """When an account starts anew. `period` is None for LIFETIME and OPEN; `timezone` matters for CALENDAR only."""

    kind: WindowKind
    period: Period | None = None
    timezone: str = "UTC"


@dataclass(frozen=True, slots=True)
class AccountSpec:
    """One counter a request falls on: a rule, its bucket, what it counts and how long.

    The ledger's key is a digest of (document type, rule id as written, measure, window, bucket) and the window's start:
    changing `cap` keeps what was spent, renaming the rule starts a new account. `expanded_id` is the rule id with its
    `{…}` filled in, for people. A bucket value of None is the missing key, shown as `(none)`.
    """

    document_type: str
    document_name: str
    rule_id: str
    expanded_id: str
    bucket: tuple[tuple[str, str | None], ...]
    measure: Measure
    window: Window
    cap: int
    alert_thresholds: tuple[int, ...] = (75, 90, 95, 100)  # percent of the cap, compared with what is spent
    latch: bool = False  # once exhausted, shut across windows until resumed by hand


@dataclass(frozen=True, slots=True)
class Posting:
    """What one plan asks of one account: `fixed` + ceil(`per_output_milli` × output / 1000), in the account's step.

    A deciding account can refuse; a tracking one takes hold and charge even past its cap. `spent_below` makes the plan
    inadmissible once that much is spent (a constrained account sends premium models away); `spent_from` leaves the plan
    out until that much is spent (what a constrained account falls back to), and such a plan never explains a refusal.
    """

    account: AccountSpec
    deciding: bool
    fixed: int
    per_output_milli: int = 0
    spent_below: int | None = None
    spent_from: int | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """One way to serve a request. The ledger grants the largest output in [output_min, output_max] that fits."""

    target: str
    postings: tuple[Posting, ...]
    output_min: int
    output_max: int


@dataclass(frozen=True, slots=True)
class Charge:
    """What one attempt really used, by measure."""

    cost_nanodollars: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    requests: int = 0


class Basis(StrEnum):
    """How a charge is known."""

    REPORTED = "reported"
    ESTIMATED = "estimated"
    EXPIRED = "expired"
    RELEASED = "released"


@dataclass(frozen=True, slots=True)
class Resolution:
    """How one hold ended. `detail` is a JSON object text that goes into the journal entry as it is.

    A release is a resolution with basis RELEASED: nothing is charged but what `charge.requests` says (1 when the
    request did reach the provider, 0 when it was never sent).
    """

    hold_id: str
    charge: Charge
    basis: Basis
    detail: str = "{}"
    realms: tuple[str, ...] = ()  # as `HoldReply.realms`; where they are not known every realm is asked


@dataclass(frozen=True, slots=True)
class Part:
    """What makes a hold one realm's part of a request that falls on accounts of several.

    `fingerprint` is that of the whole request, `plan_index` where the part's first plan stands among its plans.
    `home` is the realm that decides how the hold ended and keeps its journal entry, '' in that realm itself.
    """

    fingerprint: str
    plan_index: int = 0
    home: str = ""
    hold_nanodollars: int = 0  # what the whole holds, at least
    refused: bool = False  # another realm refuses the request: remember that, and hold nothing


@dataclass(frozen=True, slots=True)
class Extension:
    """Let an open hold carry more output, because its answer goes on past what was held: `output` tokens in all.

    `may_refuse` are the accounts that can say no, with their caps as they are now; the others of the hold follow. The
    ledger grants the largest output up to `output` that fits. Each token adds `cost_milli` thousandths of a nano-dollar
    to accounts of cost, and one to those that count output.
    """

    hold_id: str
    output: int
    cost_milli: int
    may_refuse: tuple[AccountSpec, ...] = ()
    realms: tuple[str, ...] = ()  # as `HoldReply.realms`


@dataclass(frozen=True, slots=True)
class HoldRequest:
    """Set an amount aside on every account of the first admissible plan, all or nothing.

    `context` is a JSON object text (caller, tags, requested model, …) kept with the hold and copied into the journal
    entry, so that any worker can settle from the ticket alone. `previous` resolves attempt n−1 in the same step.
    `series` names the tag values whose hourly and daily spend is kept (`cost_center`, …) and the top consumers.

    A hold answered UNAVAILABLE may or may not stand in Redis. The ledger releases it in the background, so that a
    refused request costs nothing; `keep_if_unavailable` is for a request that is forwarded all the same.
    """

    hold_id: str
    plans: tuple[Plan, ...]
    lease_ms: int
    context: str = "{}"
    series: tuple[tuple[str, str], ...] = ()
    previous: Resolution | None = None
    keep_if_unavailable: bool = False
    part: Part | None = None  # None: all of it, in one realm
    top_by: tuple[str, ...] = ("pipeline", "agent_step", "repo", "user")  # tags a refusal's top consumer is sought by


class Code(StrEnum):
    """Every answer of the ledger, most severe first. None of them is an exception: a caller handles each."""

    UNAVAILABLE = "unavailable"  # Redis did not answer in time, or the breaker is open: nothing is known
    TOO_OLD = "too_old"  # the id was minted before the time tombstones are kept for: refused, nothing changed
    ALREADY_RESOLVED = "already_resolved"  # settled, released or expired before; a hold for it is never granted
    EXISTS_WITH_DIFFERENT_AMOUNT = "exists_with_different_amount"  # same id, other content: a bug, counted
    EXISTS = "exists"  # repeated call: nothing changed, the reply is that of the first
    REFUSED = "refused"  # no plan was admissible; `HoldReply.refusals` says why
    HELD = "held"
    EXTENDED = "extended"
    EXHAUSTED = "exhausted"  # an account has no room for one more token of an answer that goes on past its hold
    SETTLED = "settled"
    RELEASED = "released"
    CORRECTED = "corrected"  # a late settle of an expired hold moved the charge to the real one, once
    TOMBSTONED = "tombstoned"  # resolved before its hold arrived: that is answered ALREADY_RESOLVED, unless restored
    RENEWED = "renewed"
    RESET = "reset"  # the account began anew by hand
    RESUMED = "resumed"  # a latched account is open again
    NOT_FOUND = "not_found"


GRANTED: Final = frozenset({Code.HELD, Code.EXISTS})
"""Answers that let a request be sent."""

MAY_BE_HELD: Final = GRANTED | {Code.UNAVAILABLE}
"""Answers after which a hold may stand: an ambiguous one counts, and its release leaves at worst a tombstone."""


class RefusedBecause(StrEnum):
    """Why one account did not carry a plan."""

    SPENT = "spent"  # spent + hold > cap: waiting for settles cannot help
    CONTENDED = "contended"  # only open holds stand in the way
    NEVER_FITS = "never_fits"  # the hold alone exceeds the cap
    CONSTRAINED = "constrained"  # past `spent_below`
    LATCHED = "latched"  # shut until resumed by hand


@dataclass(frozen=True, slots=True)
class TopConsumer:
    """The tag value that spent most on an account, in the account's step."""

    tag: str
    value: str
    spent: int


@dataclass(frozen=True, slots=True)
class AccountState:
    """One account at the moment of the answer. `window_end_us` is None for LIFETIME and OPEN.

    For a SLIDING window `window_end_us` is when enough will have been forgotten for the refused amount (or, when
    granted, when the oldest entry is forgotten).
    """

    account: AccountSpec
    deciding: bool
    spent: int
    held: int
    window_start_us: int | None
    window_end_us: int | None
    refused: RefusedBecause | None = None
    asked: int = 0  # the amount that was refused, at output_min
    top_consumer: TopConsumer | None = None  # with a refusal: who spent most of it


@dataclass(frozen=True, slots=True)
class Stamp:
    """When and by which Redis life an answer was given. A new epoch or a lower seq means that Redis lost data."""

    redis_us: int
    epoch: str
    seq: int


@dataclass(frozen=True, slots=True)
class HoldReply:
    """HELD or EXISTS: `plan_index`, `output_limit` and the states of that plan's accounts. REFUSED: `plan_index` is the
    last plan tried, with the states of every account that stood in its way, in posting order.
    """

    code: Code
    stamp: Stamp | None = None
    plan_index: int = 0
    output_limit: int = 0
    states: tuple[AccountState, ...] = ()
    realms: tuple[str, ...] = ()  # where it is held, its home first; empty where there is one realm for all


@dataclass(frozen=True, slots=True)
class Weighing:
    """What one realm would say to each plan of a request, without holding anything.

    `reply` is what a repeated call gets, or UNAVAILABLE; then there is nothing else. Of each plan, `outputs` has the
    largest output that fits, REFUSES, or LEFT_OUT where the plan waits for an account to have spent more.
    """

    REFUSES: ClassVar[int] = -1
    LEFT_OUT: ClassVar[int] = -2

    outputs: tuple[int, ...] = ()
    reply: HoldReply | None = None


class Ended(StrEnum):
    """How a hold stands in its home realm."""

    OPEN = "open"
    RESOLVED = "resolved"  # settled or released; `Outcome.resolution` says at what
    WITHDRAWN = "withdrawn"  # never granted, and from now on never will be
    EXPIRED = "expired"  # or so old that nobody knows any more
    UNKNOWN = "unknown"  # the home realm does not answer


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the home of a part says of the hold. `resolution` is there with RESOLVED only."""

    ended: Ended
    resolution: Resolution | None = None


@dataclass(frozen=True, slots=True)
class ResolveReply:
    """SETTLED, RELEASED, CORRECTED, TOMBSTONED, EXISTS, ALREADY_RESOLVED, TOO_OLD or UNAVAILABLE."""

    code: Code
    stamp: Stamp | None = None


@dataclass(frozen=True, slots=True)
class ExtendReply:
    """EXTENDED, EXISTS (it carries that much already) or EXHAUSTED, each with the output the hold carries now; or
    ALREADY_RESOLVED (settled, released or expired), NOT_FOUND or UNAVAILABLE.
    """

    code: Code
    stamp: Stamp | None = None
    output: int = 0


@dataclass(frozen=True, slots=True)
class AccountBalance:
    """One live account as operators see it, with everything Redis itself remembers of it."""

    rule: str
    template: str
    document: str
    document_type: str
    bucket: tuple[tuple[str, str | None], ...]
    measure: Measure
    window: Window
    window_start_us: int | None
    window_end_us: int | None
    cap: int
    spent: int
    held: int
    name: str = ""  # what `reset` and the readings of top consumers call this account


@dataclass(frozen=True, slots=True)
class Alert:
    """A threshold of one account that its spend passed, with the figures of that step. Told once per window."""

    id: str  # its place in the outbox
    account: str
    rule: str
    bucket: tuple[tuple[str, str | None], ...]
    measure: Measure
    window_start_us: int | None
    window_end_us: int | None
    percent: int
    spent: int
    held: int
    cap: int
    time_us: int


@dataclass(frozen=True, slots=True)
class SeriesPoint:
    """What one value of a tag spent in one UTC hour or day."""

    start_us: int
    cost_nanodollars: int
    tokens: int


class Ledger(Protocol):
    """The promises. Every call may be repeated: that changes nothing and says so. No call raises on store trouble."""

    async def hold(self, request: HoldRequest) -> HoldReply:
        """Ask for a hold."""
        ...

    async def restore(self, request: HoldRequest) -> HoldReply:
        """Hold what was admitted already (`outage.admitted`), whatever the caps say, in today's windows.

        A settle that came before it is charged when the reaper next comes by.
        """
        ...

    async def resolve(self, resolution: Resolution) -> ResolveReply:
        """Settle or release a hold, once. An unknown id leaves a tombstone."""
        ...

    async def extend(self, extension: Extension) -> ExtendReply:
        """Let an open hold carry more output: a stream goes on past what was held."""
        ...

    async def renew(self, hold_ids: Sequence[str], lease_ms: int) -> Code:
        """Push the leases of open holds, in whatever realms they are; ids that are not open are skipped."""
        ...

    async def expire(self, limit: int) -> int:
        """Charge in full up to `limit` holds whose lease ran out; how many were. Any replica may call it."""
        ...

    async def balances(self, *, rule: str | None, limit: int, cursor: str) -> tuple[tuple[AccountBalance, ...], str]:
        """A page of live budget accounts (never sliding or open ones) and the cursor of the next, '' at the end."""
        ...

    async def journal(self, limit: int) -> tuple[dict[str, object], ...]:
        """The newest journal entries, newest first."""
        ...

    async def open_holds(self) -> int:
        """How many holds are open now."""
        ...

    async def reset(self, account: str, note: str) -> Code:
        """Begin an account (`AccountBalance.name`) anew: RESET, NOT_FOUND or UNAVAILABLE."""
        ...

    async def resume(self, account: str, note: str) -> Code:
        """Open a latched account again, of whatever window it is: RESUMED, NOT_FOUND or UNAVAILABLE."""
        ...


class RealmLedger(Ledger, Protocol):
    """A ledger of one realm, that can keep a part of a hold whose other parts are in other realms."""

    async def alerts(self, after: str, limit: int) -> tuple[Alert, ...]:
        """Thresholds crossed since the alert `after` ('' for the oldest there is), oldest first."""
        ...

    async def top_consumers(self, account: str, limit: int) -> tuple[TopConsumer, ...]:
        """The tag values that spent most on an account (`AccountBalance.name`), the largest first."""
        ...

    async def series(self, tag: str, period: Period, *, start_us: int, end_us: int) -> dict[str, list[SeriesPoint]]:
        """Spend by value of a tag in the UTC hours or days of [start, end)."""
        ...

    async def weigh(self, request: HoldRequest) -> Weighing:
        """What this realm would say to a part, or what it has said before."""
        ...

    async def restore(self, request: HoldRequest) -> HoldReply:
        """Hold what was admitted already (`outage.admitted`), whatever the caps say, in today's windows."""
        ...

    async def withdraw(self, hold_id: str) -> Code:
        """Take a part back because the whole is not held: RELEASED, TOMBSTONED, …; UNAVAILABLE is not retried."""
        ...

    async def outcome(self, hold_id: str) -> Outcome:
        """How a hold that is at home here ended. One that is unknown here is withdrawn by asking."""
        ...

    async def overdue_parts(self, limit: int) -> tuple[tuple[str, str], ...]:
        """Parts whose lease ran out, the oldest first: (hold id, home realm)."""
        ...

    async def expire_part(self, hold_id: str) -> Code:
        """Charge a part in full, because its home did so."""
        ...
