"""Savings: `savings` of a `gateway-load-balancing-config`. Requests that a cheaper model serves as well."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from urllib.parse import urlsplit

from ext_proc.policy.documents.common import When, id_problems, timezone_problem
from ext_proc.policy.fields import Located, Problem, optional, required
from ext_proc.policy.scalars import shown

DEADLINE_MAX_MS = 500
"""A scorer keeps every request waiting that its rule is about; Envoy waits two seconds for all of admission."""

_CLOCK = re.compile(r"([01][0-9]|2[0-3]):[0-5][0-9]")


class Weekday(StrEnum):
    """A day of the week."""

    MONDAY = "mon"
    TUESDAY = "tue"
    WEDNESDAY = "wed"
    THURSDAY = "thu"
    FRIDAY = "fri"
    SATURDAY = "sat"
    SUNDAY = "sun"


class ScorerSends(StrEnum):
    """What a scorer gets to see."""

    FACTS = "facts"
    REQUEST = "request"


class Otherwise(StrEnum):
    """What happens to a request that the scorer did not score in time."""

    SWAP = "swap"
    KEEP = "keep"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hours(Located):
    """A time of day, by Redis time."""

    from_: str | None = optional("From this minute on.", example="'22:00'")
    to: str | None = optional(
        "Until before this minute; earlier than `from`, it is on the next day.", example="'06:00'"
    )
    days: tuple[Weekday, ...] | None = optional(
        "On these days; a night belongs to the day it begins on.", example="[sat]"
    )
    timezone: str = optional("Whose clock.", default="UTC", example="Europe/Berlin")

    def problems(self) -> Iterator[Problem]:
        """Both ends or none; times and a zone that exist."""
        for name, text in (("from", self.from_), ("to", self.to)):
            if text is not None and not _CLOCK.fullmatch(text):
                yield (name, f"{shown(text)} is no time of day", "write '00:00' to '23:59', in quotes")
        if (self.from_ is None) != (self.to is None):
            yield ("", "has one end only", "write both from and to, or neither for whole days")
        if self.from_ is None and not self.days:
            yield ("", "is always", "name from and to, or days")
        if self.from_ is not None and self.from_ == self.to:
            yield ("to", "is the same minute as from", "write two times, or leave both out for whole days")
        problem = timezone_problem(self.timezone)
        if problem:
            yield ("timezone", *problem)


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestShape(Located):
    """What can be measured of a request; all that is written must hold."""

    min_input_tokens: int | None = optional("The smallest input, as estimated.", minimum=1, example="1000")
    max_input_tokens: int | None = optional("The largest input, as estimated.", minimum=1, example="2000")
    max_output_tokens: int | None = optional(
        "The largest output limit; a request without one does not fit.", minimum=1, example="500"
    )
    tools: bool | None = optional("Whether it brings tools.", example="false")
    images: bool | None = optional("Whether it holds images, or files that may be images.", example="false")
    stream: bool | None = optional("Whether the answer is streamed.", example="true")
    hours: Hours | None = optional("When it comes.", example="{from: '22:00', to: '06:00', timezone: Europe/Berlin}")

    def problems(self) -> Iterator[Problem]:
        """The bounds leave room."""
        low, high = self.min_input_tokens, self.max_input_tokens
        if low is not None and high is not None and low > high:
            yield ("min_input_tokens", f"is more than max_input_tokens ({high})", "nothing fits: correct one of them")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scorer(Located):
    """A service of your own that says how well the cheaper model would do."""

    url: str = required("Where it is asked, with a POST of JSON.", example="http://scorer.internal:8080/score")
    at_least: Decimal = required(
        "The score, 0 to 1, from which on the request is swapped.", minimum=0, maximum=1, example="0.7"
    )
    deadline_ms: int = optional("How long it may take.", default=50, minimum=1, maximum=DEADLINE_MAX_MS, example="30")
    sends: ScorerSends = optional(
        "`facts`: sizes and tags. `request`: the body too.", default=ScorerSends.FACTS, example="request"
    )
    otherwise: Otherwise = optional(
        "Without a score in time: `swap`, as the rule by itself would, or `keep` the model.",
        default=Otherwise.SWAP,
        example="keep",
    )

    def problems(self) -> Iterator[Problem]:
        """The address is one."""
        try:
            parts = urlsplit(self.url)
            usable = (
                parts.scheme in {"http", "https"} and bool(parts.hostname) and not (parts.username or parts.password)
            )
        except ValueError:
            usable = False
        if not usable:
            yield ("url", f"{shown(self.url)} is no address of a scorer", "write http(s)://host[:port]/path")


@dataclass(frozen=True, slots=True, kw_only=True)
class Saving(Located):
    """Which requests a cheaper model serves as well. The first rule that is about a request and swaps its model
    decides.
    """

    id: str = required("Names the rule.", example="short-questions")
    when: When = required("Who calls, with which tags, for which model.", example="{metadata: {priority: low}}")
    request: RequestShape | None = optional("What it must be like.", example="{max_input_tokens: 2000, tools: false}")
    scorer: Scorer | None = optional(
        "Who has the last word.", example="{url: 'http://scorer:8080/score', at_least: 0.7}"
    )
    swap: Mapping[str, str] = required(
        "Dearer → cheaper, targets or virtual models; `*` for every other.",
        example="{openai-main/gpt-4o: openai-main/gpt-4o-mini}",
    )
    audit_mode: bool = optional("Count and tell what it would swap, and swap nothing.", default=False, example="true")

    def problems(self) -> Iterator[Problem]:
        """Something is swapped, for something else."""
        yield from id_problems(self.id)
        if not self.swap:
            yield ("swap", "is empty", "name a model and what it gives way to")
        for dear, cheap in self.swap.items():
            if dear == cheap:
                yield (f"swap.{dear}", "is swapped for itself", "name a cheaper one, or remove it")
