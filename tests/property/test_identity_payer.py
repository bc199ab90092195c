"""Whatever else a client sends beside its key, either the key's caller pays or the request is refused."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from ext_proc.identity.caller import Caller
from ext_proc.identity.claims import holder_of_certificate
from ext_proc.identity.errors import MetadataError
from ext_proc.identity.presented import CREDENTIAL_HEADERS
from ext_proc.policy.documents.identity import CertificateParts
from tests.identity_kit import HEADER, a_key, identity_document, keyed, policy, resolved

MINE, OTHER = a_key("mine"), a_key("other")
SET = policy(
    identity_document(
        f"""
keys:
  - {{id: mine, hash: '{keyed(MINE)}', user: ada, tenant: acme, tags: {{cost_center: search}}}}
  - {{id: other, hash: '{keyed(OTHER)}', user: eve, tenant: rival, speaks_for_tenants: true}}
anonymous: allow
jwt: {{user: email}}
certificates: {{user: cn}}
"""
    )
)

NAMES = st.sampled_from(
    (*CREDENTIAL_HEADERS, HEADER, "cookie", "x-tfy-user", "x-tollgate-key", "x-forwarded-client-cert")
)
PIECES = st.sampled_from(
    ("Bearer ", "bearer", "Basic ", ",", ";", '"', "tg_", MINE, OTHER, OTHER[:-1], "sk-x", "CN=eve")
)
VALUES = st.one_of(
    st.lists(PIECES, max_size=4).map("".join),
    st.text(max_size=40),
    st.dictionaries(st.sampled_from(("user", "tenant_id", "cost_center", "team")), st.text(max_size=8)).map(json.dumps),
)


@given(
    place=st.sampled_from(CREDENTIAL_HEADERS),
    before=st.lists(st.tuples(NAMES, VALUES), max_size=4),
    after=st.lists(st.tuples(NAMES, VALUES), max_size=4),
    claims=st.none() | st.just({"email": "eve"}),
)
def test_nothing_beside_a_key_changes_who_pays(
    place: str, before: list[tuple[str, str]], after: list[tuple[str, str]], claims: dict[str, object] | None
) -> None:
    """Any headers in any order, with a verified token or without: the key's user, tenant and tags, or a refusal."""
    try:
        found = resolved(SET, *before, (place, MINE), *after, claims=claims)
    except MetadataError:
        return
    if isinstance(found, Caller):
        assert (found.key_id, found.user, found.tenant, found.verified) == ("mine", "ada", "acme", True)
        tags = (found.tags["cost_center"], found.tags["user"], found.tags["tenant_id"])
        assert tags == ("search", "ada", "acme")


@given(header=st.text(alphabet=st.sampled_from('abCN=,;"\\ /+'), max_size=60))
def test_any_certificate_header_can_be_read(header: str) -> None:
    """No text raises, and what is found is a name that stands in it."""
    name = holder_of_certificate(header, CertificateParts(user="cn", team="uri")).user

    assert name is None or name.replace("\\", "") in header.replace("\\", "")
