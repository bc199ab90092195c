"""A public catalogue from a file, in the form that the genai-prices project publishes: newer prices without a release.

The form is the JSON array of providers that the package itself downloads (`prices/new_data/v2/data.json` of its
repository). A file is taken whole or not at all.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Final

import orjson

from ext_proc.pricing import published
from ext_proc.pricing.catalogue import Catalogue
from ext_proc.pricing.entries import Provider
from ext_proc.pricing.errors import CatalogueError
from ext_proc.pricing.schedule import Schedule
from ext_proc.pricing.usage import Rates

MAX_BYTES: Final = 64 << 20
"""The published file has less than a hundredth of it: what is larger is something else."""

MAX_RATE_PICODOLLARS: Final = 10**12
"""A dollar per token or search, dozens of times the dearest known price: what is above it is a unit mistaken."""

_VERSION_DIGITS = 12
_CURE = "mount a file such as prices/new_data/v2/data.json of the genai-prices project"
_Stamp = tuple[int, int, int] | None


def load(content: bytes, dated_us: int, name: str) -> Catalogue:
    """The catalogue that a file holds. `name` is what an error calls the file. Raises CatalogueError."""
    if len(content) > MAX_BYTES:
        raise CatalogueError(f"{name}: has {len(content):,} bytes, more than {MAX_BYTES:,}; {_CURE}")
    try:
        raw = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise CatalogueError(f"{name}: line {error.lineno}: is no JSON: {error.msg}; {_CURE}") from None
    if not isinstance(raw, list):
        raise CatalogueError(f"{name}: is no list of providers; {_CURE}")
    try:
        providers = published.providers(raw)
    except published.FormError as error:
        raise CatalogueError(f"{name}: {error}; {_CURE}") from None
    version = f"genai-prices-file-{hashlib.sha256(content).hexdigest()[:_VERSION_DIGITS]}"
    catalogue = Catalogue(providers, version, dated_us)
    _refuse_implausible(catalogue, providers, name)
    return catalogue


def read(file: Path) -> Catalogue:
    """The catalogue of a file, dated by when it was written. Raises CatalogueError."""
    return load(*_read(file))


@dataclass(frozen=True, slots=True)
class Status:
    """What an operator wants to know of the catalogue in force."""

    version: str
    dated_us: int
    loaded: int = 0  # files put in force since the start
    refused: int = 0  # files that could not be taken since then
    problem: str = ""  # of the file as it is now; empty where it is the one in force

    def age_seconds(self, now_us: int) -> int:
        """How long ago the file in force was written."""
        return max(0, now_us - self.dated_us) // 1_000_000


class CatalogueWatch:
    """A file that is looked at again and again, and a last good catalogue that always stands.

    Holds no clock and starts no thread: whoever owns it calls `poll`. `last_good`: where the content of a file that was
    taken is kept, for a start that finds a broken one. Raises CatalogueError where the first file cannot be taken and
    nothing is kept.
    """

    def __init__(self, file: Path, *, last_good: Path | None = None) -> None:
        self._file, self._last_good = file, last_good
        self._stamp: _Stamp = _stamp(file)
        try:
            self.catalogue, loaded, refused, problem = self._take(), 1, 0, ""
        except CatalogueError as error:
            if last_good is None or not last_good.is_file():
                raise
            self.catalogue, loaded, refused, problem = read(last_good), 0, 1, str(error)
        self.status = Status(self.catalogue.version, self.catalogue.dated_us, loaded, refused, problem)

    def poll(self, *, force: bool = False) -> bool:
        """Look again; whether another catalogue is in force now. The file is read only when it looks changed."""
        now = _stamp(self._file)
        if now == self._stamp and not force:
            return False
        self._stamp = now  # taken before reading: a file that changes while it is read is read again by the next poll
        before, status = self.catalogue.version, self.status
        try:
            self.catalogue = self._take()
        except CatalogueError as error:
            self.status = replace(status, refused=status.refused + 1, problem=str(error))
            return False
        changed = self.catalogue.version != before
        self.status = Status(self.catalogue.version, self.catalogue.dated_us, status.loaded + changed, status.refused)
        return changed

    def _take(self) -> Catalogue:
        content, dated_us, name = _read(self._file)
        catalogue = load(content, dated_us, name)
        if self._last_good is not None:
            _keep(content, dated_us, self._last_good)
        return catalogue


def _read(file: Path) -> tuple[bytes, int, str]:
    """Content, the time it was written, and the name."""
    try:
        with file.open("rb") as opened:
            return opened.read(MAX_BYTES + 1), os.fstat(opened.fileno()).st_mtime_ns // 1_000, str(file)
    except OSError as error:
        raise CatalogueError(f"{file}: cannot be read: {error.strerror}; {_CURE}") from None


def _keep(content: bytes, dated_us: int, place: Path) -> None:
    """Whole or not at all, with the date of the file it came from."""
    fresh = place.with_name(f"{place.name}.new")
    try:
        fresh.write_bytes(content)
        os.utime(fresh, ns=(dated_us * 1_000, dated_us * 1_000))
        fresh.replace(place)
    except OSError as error:
        raise CatalogueError(f"{place}: the catalogue cannot be kept there: {error.strerror}; free the disk") from None


def _stamp(file: Path) -> _Stamp:
    """What changes when the file does, through any symlink of a mounted volume; None where there is none."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _refuse_implausible(catalogue: Catalogue, providers: tuple[Provider, ...], name: str) -> None:
    """A catalogue without prices would make every model unpriced; a rate that is no price would make it worthless."""
    priced = 0
    for provider in providers:
        for model, schedule in catalogue.all_schedules(provider.id):
            priced += 1
            if kind := _implausible(schedule):
                raise CatalogueError(f"{name}: {provider.id}/{model}: the rate of {kind} is no price; {_CURE}")
    if not priced:
        raise CatalogueError(f"{name}: prices no model; {_CURE}")


def _implausible(schedule: Schedule) -> str | None:
    """The kind of usage whose rate is negative or beyond every price."""
    for entry in schedule.dated:
        every = (entry.price.tiers, *(tiers for _, tiers in entry.price.service_tiers))
        for tier in (tier for tiers in every for tier in tiers):
            for field in fields(Rates):
                if not 0 <= (getattr(tier.rates, field.name) or 0) <= MAX_RATE_PICODOLLARS:
                    return field.name
    return None
