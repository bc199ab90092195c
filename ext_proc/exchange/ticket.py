"""The ticket: what travels with a request inside Envoy, so that any worker can settle it.

It rides in the dynamic metadata namespace `tollgate` as one compact JSON string (at most 1 KiB), forwarded to meter and
present in every access log record. It holds figures, never credentials.
"""

from __future__ import annotations

from dataclasses import dataclass

from orjson import loads

from ext_proc.exchange.compact import compact
from ext_proc.exchange.cutting import Cut
from ext_proc.exchange.price_text import decode_price, encode_price
from ext_proc.pricing.price import Price
from ext_proc.pricing.usage import NO_USAGE, Usage

NAMESPACE = "tollgate"
"""The dynamic metadata namespace of the id, the worker's name and the ticket: forwarded to meter and logged."""

USAGE_NAMESPACE = "tollgate.usage"
"""The namespace where Envoy's own parsers put what they read in an answer, by path; logged only."""

ANSWER_NAMESPACE = "tollgate.answer"
"""The namespace of response header values that Envoy adds itself; never forwarded, so it may be larger."""

MAX_LABEL_CHARS = 64
MAX_AUDITED_RULES = 4
MAX_MODEL_CHARS = 128
"""Bounds that keep a ticket near 1 KiB, whatever clients call their models: it is sent to meter with every message."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """One attempt in flight."""

    hold_id: str
    dialect: str
    operation: str
    requested_model: str
    target: str  # account/model that serves
    price: Price
    input_tokens: int  # the estimate admission held
    output_limit: int  # tokens granted, times choices
    verdict: str
    stream: bool
    hide_usage: bool  # the usage chunk was asked for by us, not by the client
    labels: tuple[str, ...] = ()  # metric label values: user, tenant, then the configured metric_labels
    would_refuse: tuple[str, ...] = ()  # rules in audit mode that would have refused it
    would_downgrade: tuple[str, ...] = ()  # rules in audit mode that would have swapped its model
    began_ms: int = 0  # how long after the request was admitted this attempt began
    native: bool = False  # Envoy's own parsers read the usage, unless the answer is compressed: the end record settles
    verdict_rule: str = ""  # the rule that decided it, where one did
    cut: Cut | None = None  # who may end its stream before it is over
    store_failed: bool = False  # admitted while Redis did not answer: its hold is in a worker's outage journal
    learned_input: bool = False  # the input held was computed from what earlier requests have taught
    learned_output: bool = False
    prompt_bytes: int = 0  # 0: its input teaches nothing, for not all of it is text
    units: Usage = NO_USAGE  # what the request told of the units it is billed by
    logged_as: str = ""  # the request's public id, where its content is logged; "": it is not
    traffic: str = ""  # which requests its output teaches about; "": none, for a limit bounds it
    realms: tuple[str, ...] = ()  # where its hold stands, where the ledger has more realms than one

    def encode(self) -> str:
        """The compact text form."""
        fields = [
            self.hold_id,
            self.dialect,
            self.operation,
            self.requested_model[:MAX_MODEL_CHARS],
            self.target[:MAX_MODEL_CHARS],
            encode_price(self.price),
            self.input_tokens,
            self.output_limit,
            self.verdict,
            self._flags(),
            [label[:MAX_LABEL_CHARS] for label in self.labels],
            [rule[:MAX_LABEL_CHARS] for rule in self.would_refuse[:MAX_AUDITED_RULES]],
            [rule[:MAX_LABEL_CHARS] for rule in self.would_downgrade[: MAX_AUDITED_RULES - len(self.would_refuse)]]
            if len(self.would_refuse) < MAX_AUDITED_RULES
            else [],
            self.began_ms,
            self.prompt_bytes,
            self.traffic,
            self.verdict_rule[:MAX_LABEL_CHARS],
            *([rare] if (rare := self._rare()) else []),
        ]
        return compact(fields)

    def _rare(self) -> dict[str, object]:
        """What few requests have, by name."""
        units: dict[str, object] = {} if self.units is NO_USAGE else {"units": self.units.counts()}
        cut = {} if self.cut is None else {"cut": self.cut.encode()}
        logged = {"log": self.logged_as} if self.logged_as else {}
        return {**units, **cut, **logged, **({"realms": self.realms} if self.realms else {})}

    def _flags(self) -> int:
        named = (
            *(self.stream, self.hide_usage, self.store_failed, self.native),
            *(self.learned_input, self.learned_output),
        )
        return sum(flag << place for place, flag in enumerate(named))

    @classmethod
    def decode(cls, text: str) -> Ticket:
        """Read `encode`'s form. Raises ValueError where it is not one."""
        try:
            hold_id, dialect, operation, requested, target, price, input_tokens, output_limit, *rest = loads(text)
            verdict, flags, labels, would_refuse, would_downgrade, began_ms, *rest = rest
            prompt_bytes, traffic, verdict_rule, *rest = rest
            rare = rest[0] if rest else {}
            return cls(
                hold_id=hold_id,
                dialect=dialect,
                operation=operation,
                requested_model=requested,
                target=target,
                price=decode_price(price),
                input_tokens=input_tokens,
                output_limit=output_limit,
                verdict=verdict,
                stream=bool(flags & 1),
                hide_usage=bool(flags & 2),
                labels=tuple(labels),
                would_refuse=tuple(would_refuse),
                would_downgrade=tuple(would_downgrade),
                began_ms=began_ms,
                verdict_rule=verdict_rule,
                store_failed=bool(flags & 4),
                native=bool(flags & 8),
                learned_input=bool(flags & 16),
                learned_output=bool(flags & 32),
                prompt_bytes=prompt_bytes,
                traffic=traffic,
                units=Usage(**rare["units"]) if "units" in rare else NO_USAGE,
                logged_as=rare.get("log", ""),
                cut=Cut.decode(rare["cut"]) if "cut" in rare else None,
                realms=tuple(rare.get("realms", ())),
            )
        except (TypeError, KeyError, IndexError) as error:
            raise ValueError(f"not a ticket: {text[:80]!r}") from error
