"""The credentials that a request brings: virtual keys of ours, and everything else. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from ext_proc.identity.keys import PREFIX

CREDENTIAL_HEADERS: Final = ("authorization", "x-api-key", "api-key", "x-goog-api-key")
"""Where the SDKs put their key: a virtual key is accepted in each."""

SIGNATURE_HEADERS: Final = ("x-amz-security-token", "x-amz-date", "x-amz-content-sha256")
"""What belongs to a signature in `authorization`: a client's own is for the gateway's host, so good for nobody else."""

_BEARER: Final = "bearer"


@dataclass(frozen=True, slots=True)
class Presented:
    """What stands in the credential headers. `keys` are the distinct texts that claim to be virtual keys; `others` are
    the headers that hold something else: a provider's key, or nothing of meaning.
    """

    keys: tuple[str, ...] = ()
    others: tuple[str, ...] = ()


def presented(headers: Iterable[tuple[str, str]]) -> Presented:
    """Read them. A header that holds a virtual key is never among the others, whatever else it holds."""
    keys: dict[str, None] = {}
    ours: set[str] = set()
    others: dict[str, None] = {}
    for name, value in headers:
        if name not in CREDENTIAL_HEADERS:
            continue
        credential = _credential(name, value)
        if not credential:
            continue
        if _claims_to_be_ours(credential):
            keys[credential] = None
            ours.add(name)
        else:
            others[name] = None
    return Presented(tuple(keys), tuple(name for name in others if name not in ours))


def _credential(name: str, value: str) -> str:
    text = value.strip(" \t")
    if name == "authorization":
        scheme, space, token = text.partition(" ")
        if space and scheme.lower() == _BEARER:
            return token.strip(" \t")
    return text


def _claims_to_be_ours(credential: str) -> bool:
    """A text with our prefix at its start, or after a comma: the way Envoy joins repeated headers."""
    return any(_without_scheme(part).startswith(PREFIX) for part in credential.split(","))


def _without_scheme(part: str) -> str:
    return part.strip().rpartition(" ")[2]
