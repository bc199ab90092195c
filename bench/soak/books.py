"""Whether the books balance: pure. Every request is followed from its client to the provider's bill and the journal.

To the nano-dollar:

- what each account has spent is the sum of its journal entries, and nothing is held once everything has ended;
- a request that the provider answered in full with usage is charged what the provider bills, once;
- what nobody received an answer to, or only a part of, is charged an estimate, never nothing; estimates above their
  hold are counted;
- what the provider did not see, or answered with an error, costs nothing.

Where a part of the stack was killed at that moment, and only there, a client may see an error and a charge may be that
of a hold that expired: what the killed process knew is gone. A worker or a Redis that is asked to end loses nothing.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from bench.soak.policies import EVERYTHING, PER_CENTER, TOKENS
from bench.soak.records import Balance, Billed, Disruption, Expected, Posted, Sent

SLACK_BEFORE_SECONDS, SLACK_AFTER_SECONDS = 6.0, 3.0
"""A record that a killed process had not settled yet is of a request that ended a little before: Envoy sends records
once a second, and what meter may still settle is left to it for two more."""

_KILLED = "SIGKILL"


@dataclass(slots=True)
class Books:
    """The outcome. `findings` is empty where everything balances."""

    findings: list[str] = field(default_factory=list)
    totals: dict[str, int] = field(default_factory=dict)
    explained: Counter[str] = field(default_factory=Counter)
    by_basis: dict[str, dict[str, int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Case:
    """One request with all that is known of it."""

    sent: Sent
    bills: Sequence[Billed]
    posts: Sequence[Posted]
    causes: Sequence[Disruption]  # what was disturbed while it ran

    @property
    def charge_nanodollars(self) -> int:
        """Corrections are differences, so the sum is what it cost in the end."""
        return sum(post.charge_nanodollars for post in self.posts)

    @property
    def bases(self) -> frozenset[str]:
        """How its charges are known; attempts that were given back do not count."""
        return frozenset(post.basis for post in self.posts if post.basis != "released")


def balance(
    sent: Iterable[Sent],
    billed: Iterable[Billed],
    posted: Sequence[Posted],
    balances: Sequence[Balance],
    disruptions: Sequence[Disruption],
) -> Books:
    """Hold everything against everything."""
    books = Books()
    bills: dict[str, list[Billed]] = defaultdict(list)
    posts: dict[str, list[Posted]] = defaultdict(list)
    for bill in billed:
        bills[bill.id].append(bill)
    for post in posted:
        posts[post.id].append(post)
    seen = set()
    for one in sent:
        seen.add(one.id)
        case = Case(one, bills.get(one.id, ()), posts.get(one.id, ()), tuple(_causes(one, disruptions)))
        books.findings += [f"{one.id} ({one.kind}): {what}" for what in (*_client(case, books), *_money(case, books))]
    books.findings += [f"{name}: in the journal, but nobody sent it" for name in sorted(posts.keys() - seen)]
    books.findings += list(_accounts(posted, balances))
    books.totals = _totals(bills, posted)
    books.by_basis = _by_basis(posted)
    return books


def _causes(sent: Sent, disruptions: Sequence[Disruption]) -> Iterator[Disruption]:
    for one in disruptions:
        if sent.began <= one.ended + SLACK_AFTER_SECONDS and one.began <= sent.ended + SLACK_BEFORE_SECONDS:
            yield one


def _client(case: Case, books: Books) -> Iterator[str]:
    """What the client saw that nobody meant it to see."""
    sent = case.sent
    is_whole = sent.whole or sent.expected in {Expected.LEFT, Expected.CUT}
    if sent.status in sent.statuses and is_whole:
        return
    what = f"status {sent.status}" if sent.status else "no answer"
    what += "" if sent.whole else ", broken off"
    cause = next((one for one in case.causes if _may_break(one, sent)), None)
    if cause is None:
        yield f"its client saw {what} ({sent.error}), and nothing was disturbed that explains it"
    else:
        books.explained[f"{cause.service} {cause.signal}: {what}"] += 1


def _may_break(cause: Disruption, sent: Sent) -> bool:
    """An Envoy that ends takes its connections along; a killed worker what it was deciding; without Redis nothing new
    is admitted, and no second attempt.
    """
    match cause.service:
        case "envoy":
            return True
        case "redis":
            return sent.status in {502, 503}
        case _:
            return cause.signal == _KILLED and sent.status in {0, 500, 503}


def _money(case: Case, books: Books) -> Iterator[str]:
    """What it was charged that does not fit what happened."""
    doubled = [
        hold for hold, times in Counter(p.hold_id for p in case.posts if not p.is_correction).items() if times > 1
    ]
    if doubled:
        yield f"{', '.join(doubled)} is in the journal twice"
    for post in case.posts:
        if post.charge_nanodollars < 0 and not post.is_correction:
            yield f"charged {post.charge_nanodollars}"
    if "expired" in case.bases and not any(post.is_correction for post in case.posts):
        yield from _expired(case, books)
        return
    if not case.bills:
        if case.charge_nanodollars:
            yield f"charged {case.charge_nanodollars} nano-dollars, and the provider never saw it"
        return
    if not case.posts:
        yield f"the provider saw it ({case.bills[-1].outcome}), and it is not in the journal"
        return
    yield from _against_the_bill(case, books)


def _expired(case: Case, books: Books) -> Iterator[str]:
    """Charged in full, because what was known of its end died with a process."""
    cause = next((one for one in case.causes if one.service == "envoy" or one.signal == _KILLED), None)
    if cause is None:
        yield "its hold expired, and nothing was killed that explains it"
        return
    books.explained[f"{cause.service} {cause.signal}: hold expired"] += 1
    full = sum(post.hold_nanodollars for post in case.posts if post.basis == "expired")
    charged = sum(post.charge_nanodollars for post in case.posts if post.basis == "expired")
    if charged != full:
        yield f"its hold expired and was charged {charged}, not the {full} nano-dollars held"


def _against_the_bill(case: Case, books: Books) -> Iterator[str]:
    expected, charge = case.sent.expected, case.charge_nanodollars
    bill = (
        None if any(one.nanodollars is None for one in case.bills) else sum(one.nanodollars or 0 for one in case.bills)
    )
    if bill is not None and case.bases <= {"reported"}:
        if charge != bill:
            yield f"charged {charge} nano-dollars, billed {bill} ({', '.join(sorted(case.bases)) or 'released'})"
        return
    if bill is not None and not _may_be_estimated(case):
        yield f"charged an estimate of {charge}, and the provider's usage was there to be read ({bill})"
    nothing = expected is Expected.FAILED or (bill is None and case.bills[-1].outcome == "cut" and not case.sent.whole)
    if charge == 0 and not nothing:
        yield f"charged nothing, and the provider's answer was {case.bills[-1].outcome}"
    is_above = charge > sum(post.hold_nanodollars for post in case.posts)
    books.explained[f"estimated{', above its hold' if is_above else ''}: {expected}"] += 1


def _may_be_estimated(case: Case) -> bool:
    """Where the usage did not reach us: the client left, or what carried it was killed."""
    return case.sent.expected is Expected.LEFT or any(
        one.service == "envoy" or one.signal == _KILLED for one in case.causes
    )


def _accounts(posted: Sequence[Posted], balances: Sequence[Balance]) -> Iterator[str]:
    """Spent and held of each account against the journal."""
    by_center: Counter[str | None] = Counter()
    for post in posted:
        by_center[post.cost_center] += post.charge_nanodollars
    expected: dict[tuple[str, str | None], int] = {
        (EVERYTHING, None): sum(post.charge_nanodollars for post in posted),
        **{(PER_CENTER, center): spent for center, spent in by_center.items()},
    }
    if not any(post.basis == "expired" for post in posted):  # such an entry does not say how many tokens were held
        expected[TOKENS, None] = sum(post.tokens for post in posted)
    found = {(one.rule, one.cost_center): one for one in balances}
    for (rule, center), spent in expected.items():
        account = found.get((rule, center))
        has = account.spent if account else 0
        if has != spent:
            yield f"account {rule} {center or ''}: spent {has}, its journal entries add up to {spent}"
    yield from (
        f"account {one.rule} {one.cost_center or ''}: {one.held} still held" for one in balances if one.held != 0
    )


def _totals(bills: Mapping[str, Sequence[Billed]], posted: Sequence[Posted]) -> dict[str, int]:
    """The sums, in nano-dollars. What was billed for part of an answer nobody knows."""
    return {
        "charged": sum(post.charge_nanodollars for post in posted),
        "charged as reported": sum(
            p.charge_nanodollars for p in posted if p.basis == "reported" and not p.is_correction
        ),
        "billed in full": sum(one.nanodollars or 0 for several in bills.values() for one in several),
        "answers without a bill": sum(one.nanodollars is None for several in bills.values() for one in several),
        "journal entries": len(posted),
    }


def _by_basis(posted: Sequence[Posted]) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for post in posted:
        name = f"{post.basis}, corrected" if post.is_correction else post.basis
        row = found.setdefault(name, {"entries": 0, "nanodollars": 0})
        row["entries"] += 1
        row["nanodollars"] += post.charge_nanodollars
    return found
