"""Links of a policy with places to fill in: `https://…/quota?rule={rule}&team={metadata.team}`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import quote

_PLACE = re.compile(r"\{(rule|metadata\.[^{}]+)\}")
_METADATA = "metadata."


def filled(link: str, *, rule: str, tags: Mapping[str, str]) -> str:
    """The link for one refusal. Values are percent-encoded, because clients choose them; a missing tag is empty."""

    def value(place: re.Match[str]) -> str:
        name = place[1]
        return quote(rule if name == "rule" else tags.get(name.removeprefix(_METADATA), ""), safe="")

    return _PLACE.sub(value, link)
