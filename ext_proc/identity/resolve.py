"""Headers and policy → who a request is charged to."""

from __future__ import annotations

from collections.abc import Iterable

from ext_proc.identity.caller import Caller
from ext_proc.identity.tags import parse_tags
from ext_proc.policy.snapshot import Snapshot

USER_TAG = "user"


def resolve_caller(headers: Iterable[tuple[str, str]], snapshot: Snapshot) -> Caller:
    """The caller of a request. `headers` are pairs with lower-case names, repeated where they are repeated on the wire.

    A caller without a key is who the tag `user` says, unverified: team, virtual account, tenant and plan come from
    records only, so a tag such as `tenant_id` stays a tag and selects nothing. Tags set by policy override those sent.
    Raises MetadataError for a tag header that cannot be accepted.
    """
    name = snapshot.settings.metadata_header
    sent = parse_tags(name, [value for header, value in headers if header == name])
    caller = Caller(user=sent.get(USER_TAG) or None, tags=sent)
    overrides = snapshot.override_tags(caller)
    if not overrides:
        return caller
    tags = {**sent, **overrides}
    return Caller(user=tags.get(USER_TAG) or None, tags=tags)
