"""The Lua scripts: package data, put together once, called by their digest."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha1
from importlib.resources import files

_PARTS = {
    "hold": ("common", "accounts", "effects", "resolution", "amounts", "hold"),
    "extend": ("common", "accounts", "effects", "resolution", "amounts", "extend"),
    "resolve": ("common", "accounts", "effects", "resolution", "resolve"),
    "expire": ("common", "accounts", "effects", "resolution", "expire"),
    "reset": ("common", "accounts", "effects", "resolution", "reset"),
    "resume": ("common", "accounts", "effects", "resolution", "resume"),
    "renew": ("common", "renew"),
    "parts": ("common", "accounts", "effects", "resolution", "parts"),
    "outcome": ("common", "accounts", "effects", "resolution", "outcome"),
    "expire_part": ("common", "accounts", "effects", "resolution", "expire_part"),
    "look": ("common", "look"),
}


@dataclass(frozen=True, slots=True)
class Script:
    """One script as Redis knows it."""

    name: str
    source: str
    sha: str


def load_scripts(clock_source: str | None = None) -> dict[str, Script]:
    """All scripts by name. `clock_source` replaces `clock.lua`, the function `server_us`, where a test brings a clock.

    Raises FileNotFoundError for an incomplete installation.
    """
    clock = _read("clock") if clock_source is None else clock_source
    scripts = {}
    for name, parts in _PARTS.items():
        source = "\n".join([clock, *(_read(part) for part in parts)])
        digest = sha1(source.encode(), usedforsecurity=False).hexdigest()  # the name Redis gives a script
        scripts[name] = Script(name, source, digest)
    return scripts


def _read(part: str) -> str:
    return files("ext_proc.ledger").joinpath("lua", f"{part}.lua").read_text(encoding="utf-8")
