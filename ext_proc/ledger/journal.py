"""One journal entry: how a hold ended, as one flat object for reports and the admin API."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import orjson

from ext_proc.ledger.interface import Basis

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class JournalFigures:
    """What the ledger itself knows of a resolution. The charge of a correction is the difference it made, so that the
    entries of an account always add up to what it has spent.
    """

    hold_id: str
    time_us: int
    charge_nanodollars: int
    hold_nanodollars: int
    input_tokens: int
    output_tokens: int
    basis: Basis
    correction: bool


def entry(context: str, detail: str, figures: JournalFigures) -> dict[str, object]:
    """Context (what the hold kept), detail (what the settler knew) and figures, the later ones winning."""
    merged: dict[str, object] = {**_object(context), **_object(detail)}
    merged |= {
        "hold_id": figures.hold_id,
        "attempt": int(figures.hold_id.rpartition(".")[2]),
        "time": rfc3339(figures.time_us),
        "charge_nanodollars": figures.charge_nanodollars,
        "hold_nanodollars": figures.hold_nanodollars,
        "input_tokens": figures.input_tokens,
        "output_tokens": figures.output_tokens,
        "basis": str(figures.basis),
    }
    if figures.correction:
        merged["correction"] = True
    return merged


def posting_row(figures: JournalFigures, home: str) -> dict[str, object]:
    """What a part of a hold over several realms did in a realm that is not its home."""
    row: dict[str, object] = {
        "hold_id": figures.hold_id,
        "time": rfc3339(figures.time_us),
        "charge_nanodollars": figures.charge_nanodollars,
        "hold_nanodollars": figures.hold_nanodollars,
        "basis": str(figures.basis),
        "home": home,
    }
    return {**row, "correction": True} if figures.correction else row


def event(name: str, account: str, spent: int, note: str, time_us: int) -> dict[str, object]:
    """What somebody did to an account by hand."""
    return {"event": name, "account": account, "spent": spent, "note": note, "time": rfc3339(time_us)}


def rfc3339(time_us: int) -> str:
    """UTC, to the microsecond."""
    return (_EPOCH + timedelta(microseconds=time_us)).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _object(text: str) -> dict[str, object]:
    """A JSON object text as a dict; what is not one is kept under `unreadable` rather than lost."""
    try:
        parsed = orjson.loads(text)
    except orjson.JSONDecodeError:
        return {"unreadable": text}
    return parsed if isinstance(parsed, dict) else {"unreadable": text}
