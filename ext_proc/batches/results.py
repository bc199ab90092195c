"""What a provider says of a batch: whether it has ended, and what each of its requests has used.

Sources: the `openai` SDK's `Batch` and the lines of its output files; the `anthropic` SDK's `MessageBatch` and
`MessageBatchIndividualResponse`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Final

import orjson

from ext_proc.batches.calls import Api
from ext_proc.dialects.interface import Dialect, Reading
from ext_proc.dialects.usage_paths import dig
from ext_proc.exchange.bounds import CHARGE_BYTES_PER_TOKEN_MILLI, tokens_of
from ext_proc.pricing.price import Price
from ext_proc.pricing.usage import PICODOLLARS_PER_NANODOLLAR, USAGE_FIELDS, Usage, nanodollars, picodollars

LINE_BYTES_MAX: Final = 8 << 20
"""Of one result: longer than any answer. Nothing is settled from a file that has a longer line."""

_ENDED: Final = frozenset({"completed", "failed", "expired", "cancelled"})


@dataclass(frozen=True, slots=True)
class Status:
    """A batch as its provider describes it. `output_file` names OpenAI's file of results, None where there is none."""

    id: str
    ended: bool
    succeeded: int | None  # requests that were answered; None where it is not said
    output_file: str | None = None


def read_status(api: Api, document: Mapping[str, object]) -> Status | None:
    """The status in a provider's batch object, None where it is none."""
    named = document.get("id")
    if not isinstance(named, str) or not named:
        return None
    if api is Api.ANTHROPIC:
        succeeded = dig(document, ("request_counts", "succeeded"))
        return Status(named, document.get("processing_status") == "ended", _count(succeeded))
    output = document.get("output_file_id")
    return Status(
        named,
        document.get("status") in _ENDED,
        _count(dig(document, ("request_counts", "completed"))),
        output if isinstance(output, str) and output else None,
    )


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


class Results:
    """The lines of a file of results, fed in any chunking, added up in bounded memory.

    Each answer is priced by itself, in the tier that its own input reaches, and the sum is rounded once. An answer
    without usage counts as `unreported` says, with the output that stands in it.
    """

    def __init__(self, api: Api, speaker: Dialect, price: Price, unreported: Usage) -> None:
        self.usage = Usage()
        self.succeeded = 0
        self.failed = 0
        self.missing = 0  # answers without usage
        self.other_models = False
        self.readable = True
        self._api, self._speaker, self._price, self._unreported = api, speaker, price, unreported
        self._picodollars = 0
        self._rest = b""

    @property
    def charge_nanodollars(self) -> int:
        """What all answers so far cost."""
        return nanodollars(self._picodollars)

    def feed(self, chunk: bytes, *, end: bool) -> None:
        """Take the next bytes."""
        if not self.readable:
            return
        *lines, self._rest = (self._rest + chunk).split(b"\n") if b"\n" in chunk else (self._rest + chunk,)
        if end:
            lines, self._rest = [*lines, self._rest], b""
        if len(self._rest) > LINE_BYTES_MAX:
            self.readable, self._rest = False, b""
            return
        for line in lines:
            if line.strip():
                self._take(line)

    def _take(self, line: bytes) -> None:
        try:
            document = orjson.loads(line)
        except orjson.JSONDecodeError:
            self.readable = False
            return
        if not isinstance(document, dict):
            self.readable = False
            return
        answer = self._answer(document)
        if answer is not None:
            self._add(self._read(answer))

    def _answer(self, document: Mapping[str, object]) -> Mapping[str, object] | None:
        """The answer of a request that succeeded; what failed is counted where the provider had a go at it."""
        if self._api is Api.ANTHROPIC:
            kind, answer = dig(document, ("result", "type")), dig(document, ("result", "message"))
            self.failed += kind == "errored"
            succeeded = kind == "succeeded"
        else:
            status, answer = dig(document, ("response", "status_code")), dig(document, ("response", "body"))
            succeeded = status == HTTPStatus.OK
            self.failed += status is not None and not succeeded
        return answer if succeeded and isinstance(answer, dict) else None

    def _read(self, answer: Mapping[str, object]) -> Reading:
        meter = self._speaker.meter(content_type="application/json", content_encoding="", hide_usage=False)
        meter.feed(orjson.dumps(answer), end=True)
        return meter.reading()

    def _add(self, reading: Reading) -> None:
        usage = reading.usage
        if usage is None or not reading.output_known:
            self.missing += 1
            written = tokens_of(reading.output_bytes, CHARGE_BYTES_PER_TOKEN_MILLI)
            usage = replace(usage or self._unreported, output=max(1, written))
        price = self._price.served_in(reading.geo)
        priced = usage if usage.requests else replace(usage, requests=1)
        parts = tuple(part.usage for part in reading.parts)
        if parts or price.marginal:
            self._picodollars += price.charge_nanodollars(priced, parts) * PICODOLLARS_PER_NANODOLLAR
        else:
            self._picodollars += picodollars(priced, price.rates_for(priced))
        self.usage = Usage(**{name: getattr(self.usage, name) + getattr(usage, name) for name in USAGE_FIELDS})
        self.succeeded += 1
        self.other_models |= bool(reading.other_models)
