"""Who pays: the table of sources, the order of tags, and every trick with headers that must not change it."""

from __future__ import annotations

import pytest

from ext_proc.identity.access import model_refusal, path_refusal
from ext_proc.identity.caller import Caller, Source
from ext_proc.identity.identities import Records
from ext_proc.identity.keys import KeyHash
from ext_proc.identity.records import KeyRecord, TeamRecord, TenantRecord
from ext_proc.refusal import RefusalType
from tests.identity_kit import (
    NOW_US,
    SERVER_SECRET,
    a_key,
    caller,
    identity_document,
    keyed,
    policy,
    refusal,
    resolved,
)

CI, OTHER, BACKEND = a_key("ci"), a_key("other"), a_key("backend")
KEYS = f"""
keys:
  - id: ci
    hash: {keyed(CI)}
    team: search
    virtual_account: ci-search
    tenant: acme
    tags: {{cost_center: search}}
    environment: staging
    allowed_models: [gpt-4o-mini, anthropic-main/*]
    allowed_paths: [/v1/chat, /v1/messages]
  - {{id: other, hash: '{keyed(OTHER)}', user: bob@example.com, expires: 2030-01-01, not_before: 2026-01-01}}
  - {{id: backend, hash: '{keyed(BACKEND)}', virtual_account: shop, tenant: house, speaks_for_tenants: true}}
teams: [{{id: search, owner: lead, tags: {{cost_center: team, floor: '3'}}}}]
tenants: [{{id: acme, plan: pro, tags: {{region: eu, floor: '9'}}}}, {{id: house, plan: internal}}]
default_plan: free
"""
SET = policy(identity_document(KEYS))
OVERRIDES = """
---
name: overrides
type: gateway-metadata-config
rules:
  - {id: all, when: {}, metadata_override: {cost_center: policy, source: gateway}}
  - {id: of-search, when: {metadata: {cost_center: search}}, metadata_override: {matched: "yes"}}
"""

BEARER = ("authorization", f"Bearer {CI}")


@pytest.mark.parametrize(
    "header",
    [
        ("authorization", f"Bearer {CI}"),
        ("authorization", f"bearer   {CI} "),
        ("authorization", f"BEARER {CI}"),
        ("authorization", CI),
        ("x-api-key", CI),
        ("api-key", CI),
        ("x-goog-api-key", CI),
    ],
)
def test_a_key_is_accepted_where_each_sdk_puts_it(header: tuple[str, str]) -> None:
    """Whatever the header, the caller is the key's."""
    found = caller(SET, header)

    assert (found.virtual_account, found.team, found.tenant, found.plan) == ("ci-search", "search", "acme", "pro")
    assert (found.key_id, found.source, found.verified, found.user) == ("ci", Source.KEY, True, None)


def test_the_same_key_in_two_headers_is_one_key() -> None:
    """SDKs that send both `api-key` and `authorization` come in."""
    assert caller(SET, BEARER, ("api-key", CI)).key_id == "ci"


def test_tags_of_records_override_what_the_client_sends() -> None:
    """Header < metadata document < tenant < team < key; what was contradicted is named."""
    snapshot = policy(identity_document(KEYS) + OVERRIDES)
    sent = {"cost_center": "mine", "floor": "0", "environment": "production", "repo": "core", "source": "me"}
    found = caller(snapshot, BEARER, tags={**sent, "tenant_id": "evil"})

    assert found.tags == {
        "cost_center": "search",
        "floor": "3",
        "region": "eu",
        "environment": "staging",
        "tenant_id": "acme",
        "repo": "core",
        "source": "gateway",
        "matched": "yes",
    }
    assert found.overridden == ("cost_center", "environment", "floor", "source", "tenant_id")


def test_an_override_is_chosen_by_trusted_tags() -> None:
    """A client cannot pick the rule of `gateway-metadata-config` that suits it with a tag its key contradicts."""
    snapshot = policy(identity_document(KEYS) + OVERRIDES)

    assert "matched" not in caller(snapshot, ("x-api-key", OTHER), tags={"cost_center": "lab"}).tags
    assert caller(snapshot, BEARER, tags={"cost_center": "lab"}).tags["matched"] == "yes"


def test_the_tag_user_never_names_the_user_of_a_key() -> None:
    """A key of a user pays as that user; a key without one has no user, whatever the client says."""
    own = caller(SET, ("x-api-key", OTHER), tags={"user": "alice@example.com"})
    shared = caller(SET, BEARER, tags={"user": "alice@example.com"})

    assert (own.user, own.tags["user"], own.overridden) == ("bob@example.com", "bob@example.com", ("user",))
    assert (shared.user, shared.tags["user"]) == (None, "alice@example.com")


def test_only_a_key_with_the_grant_speaks_for_tenants() -> None:
    """For the back end `tenant_id` selects the tenant's record, and the default plan for a tenant nobody knows; without
    the tag it is its own tenant; without the grant the tag is overridden.
    """
    back_end = ("x-api-key", BACKEND)

    known = caller(SET, back_end, tags={"tenant_id": "acme"})
    unknown = caller(SET, back_end, tags={"tenant_id": "newcomer"})
    own = caller(SET, back_end)
    other = caller(SET, BEARER, tags={"tenant_id": "house"})

    assert (known.tenant, known.plan, known.tags["region"]) == ("acme", "pro", "eu")
    assert (unknown.tenant, unknown.plan) == ("newcomer", "free")
    assert (own.tenant, own.plan, own.tags["tenant_id"]) == ("house", "internal", "house")
    assert (other.tenant, other.tags["tenant_id"], other.overridden) == ("acme", "acme", ("tenant_id",))


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ([("authorization", f"Bearer {CI}"), ("authorization", f"Bearer {OTHER}")], "conflicting_credentials"),
        ([("authorization", f"Bearer {OTHER}"), ("x-api-key", CI)], "conflicting_credentials"),
        ([("authorization", "Bearer sk-provider"), ("x-api-key", CI)], "conflicting_credentials"),
        ([("authorization", f"Bearer {CI},Bearer {OTHER}")], "malformed_key"),
        ([("authorization", f"Bearer sk-provider, Bearer {CI}")], "malformed_key"),
        ([("authorization", f"Basic {CI}")], "malformed_key"),
        ([("x-api-key", f"{CI}x")], "malformed_key"),
        ([("x-api-key", f"{CI[:-1]}ѕ")], "malformed_key"),  # a Cyrillic letter that looks like the Latin one
        ([("x-api-key", f"{CI[:-1]}\udcff")], "malformed_key"),
        ([("x-api-key", "tg_" + "a" * 60_000)], "malformed_key"),
        ([("x-api-key", a_key("ci", "S"))], "unknown_key"),
        ([("x-api-key", a_key("CI"))], "unknown_key"),
        ([("x-api-key", a_key("nobody"))], "unknown_key"),
        ([("x-api-key", a_key("ci", "t"))], "unknown_key"),
        ([("x-api-key", CI.upper())], "no_key"),
        ([("x-virtual-key", CI), ("cookie", f"key={CI}"), ("x-tfy-api-key", CI)], "no_key"),
        ([("authorization", "Bearer eyJhbGciOiJub25lIn0.e30.")], "no_key"),
        ([], "no_key"),
    ],
)
def test_no_trick_with_credentials_finds_a_payer(headers: list[tuple[str, str]], reason: str) -> None:
    """401, whose reason says what to look for and never what was sent."""
    found = refusal(SET, *headers, tags={"user": "alice@example.com", "tenant_id": "acme"})

    assert (found.type, found.status, found.should_retry) == (RefusalType.UNAUTHENTICATED, 401, False)
    assert found.context == {"reason": reason}
    assert "tg_a" not in found.message
    assert CI not in found.message + found.mitigation


def test_a_key_has_its_time() -> None:
    """Before and after it the caller is told that it is the time, and not the key, that is wrong."""
    at = {"key_not_valid_yet": 1_700_000_000_000_000, "key_expired": 1_900_000_000_000_000}

    for reason, now_us in at.items():
        assert refusal(SET, ("x-api-key", OTHER), now_us=now_us).context == {"reason": reason}
    assert caller(SET, ("x-api-key", OTHER), now_us=NOW_US).user == "bob@example.com"


def test_without_keys_anybody_is_who_the_tag_says_unverified() -> None:
    """Until keys exist, a credential that is no virtual key means nothing; tenant, team and plan stay empty."""
    found = caller(policy(""), ("authorization", "Bearer unused"), tags={"user": "eve", "tenant_id": "acme"})

    assert (found.user, found.verified, found.source) == ("eve", False, Source.NONE)
    assert (found.team, found.virtual_account, found.tenant, found.plan) == (None, None, None, None)


def test_a_virtual_key_that_is_none_is_refused_even_where_nobody_needs_one() -> None:
    """Who sends a key means to be its caller: a typing mistake must not become an anonymous request."""
    assert refusal(policy(""), BEARER).context == {"reason": "unknown_key"}
    assert refusal(policy(""), ("x-api-key", "tg_oops")).context == {"reason": "malformed_key"}


def test_anonymous_is_what_the_document_says() -> None:
    """`allow` beside keys lets callers without one in; `refuse` without keys lets nobody in."""
    allowing = policy(identity_document(KEYS + "anonymous: allow\n"))

    assert caller(allowing, tags={"user": "eve"}).user == "eve"
    assert caller(allowing, BEARER).key_id == "ci"
    assert refusal(policy(identity_document("anonymous: refuse\n"))).context == {"reason": "no_key"}


def test_require_team_refuses_whoever_has_none() -> None:
    """403 for a key and for an anonymous caller without a team; a tag `team` is no team."""
    strict = policy(identity_document(KEYS + "require_team: true\nanonymous: allow\n"))

    assert caller(strict, BEARER).team == "search"
    for found in (refusal(strict, ("x-api-key", OTHER), tags={"team": "search"}), refusal(strict)):
        assert (found.type, found.status) == (RefusalType.NOT_ALLOWED, 403)


def test_a_key_is_let_to_its_paths_and_models_alone() -> None:
    """403 names the key and what it may use; a path includes what lies below it and not what begins alike."""
    found = caller(SET, BEARER)

    assert path_refusal(found, "/v1/chat/completions?x=1") is None
    assert path_refusal(found, "/v1/messages") is None
    assert model_refusal(found, "gpt-4o-mini", "openai-main/gpt-4o-mini") is None
    assert model_refusal(found, "claude-sonnet-4-6", "anthropic-main/claude-sonnet-4-6") is None
    for refused in (
        path_refusal(found, "/v1/messages-batches"),
        path_refusal(found, "/v1/embeddings"),
        model_refusal(found, "gpt-4o", "openai-main/gpt-4o"),
        model_refusal(found, "GPT-4o-mini", "openai-main/GPT-4o-mini"),
    ):
        assert refused is not None
        assert (refused.type, refused.status) == (RefusalType.NOT_ALLOWED, 403)
        assert "key 'ci'" in refused.message


def test_a_team_bounds_all_its_keys() -> None:
    """A request must be let by its key and by its team."""
    records = Records(
        keys={"k": KeyRecord("k", (KeyHash.keyed(a_key("k"), SERVER_SECRET),), team="t", allowed_models=("a", "b"))},
        teams={"t": TeamRecord("t", allowed_models=("b", "c"))},
    )
    found = caller(policy(""), ("x-api-key", a_key("k")), records=records)

    assert [model for model in "abc" if model_refusal(found, model, f"x/{model}") is None] == ["b"]


def test_redis_revokes_a_key_of_the_policy_set() -> None:
    """An emergency does not wait for a deployment; otherwise the reviewed record wins over one in Redis."""
    mine = KeyRecord("ci", (KeyHash.keyed(a_key("ci", "t"), SERVER_SECRET),), user="mallory")
    revoked = KeyRecord("ci", (), revoked_us=1)

    assert caller(SET, BEARER, records=Records(keys={"ci": mine})).virtual_account == "ci-search"
    assert refusal(SET, ("x-api-key", a_key("ci", "t")), records=Records(keys={"ci": mine})).context["reason"]
    assert refusal(SET, BEARER, records=Records(keys={"ci": revoked})).context == {"reason": "key_revoked"}


def test_a_rotated_secret_is_good_until_its_time() -> None:
    """In the overlap both secrets are the same caller; after it the old one is nobody's."""
    new, old = a_key("k", "n"), a_key("k", "o")
    hashes = (KeyHash.keyed(new, SERVER_SECRET), KeyHash.parse(keyed(old), until_us=NOW_US))
    records = Records(keys={"k": KeyRecord("k", hashes, user="u")})

    assert caller(policy(""), ("x-api-key", new), records=records).user == "u"
    assert caller(policy(""), ("x-api-key", old), records=records, now_us=NOW_US - 1).user == "u"
    assert refusal(policy(""), ("x-api-key", old), records=records).context == {"reason": "unknown_key"}


def test_a_plain_hash_is_good_with_any_server_secret() -> None:
    """Documents that several gateways share hold `sha256:`; the server secret is not part of it."""
    text = identity_document(f"keys: [{{id: ci, hash: '{KeyHash.plain(CI)}', user: u}}]\n")

    assert caller(policy(text), BEARER).user == "u"
    assert refusal(policy(text), ("x-api-key", a_key("ci", "x"))).context == {"reason": "unknown_key"}


def test_while_redis_has_not_been_read_nobody_is_taken_for_nobody() -> None:
    """503, to be retried: an unknown key and a missing one, unless the document says what a missing one means."""
    unread = Records(known=False)

    for found in (refusal(policy(""), records=unread), refusal(policy(""), BEARER, records=unread)):
        assert (found.type, found.should_retry) == (RefusalType.STORE_UNAVAILABLE, True)
    assert caller(policy(identity_document("anonymous: allow\n")), records=unread).source is Source.NONE
    assert caller(policy(identity_document(KEYS)), BEARER, records=unread).key_id == "ci"


def test_a_gateway_that_had_keys_does_not_open_when_redis_loses_them() -> None:
    """Emptied records are no reason to let everybody in."""
    assert refusal(policy(""), records=Records(had_keys=True)).context == {"reason": "no_key"}


def test_tenants_in_redis_have_plans_too() -> None:
    """A plan changes with its record; the document's record wins where both have the tenant."""
    records = Records(tenants={"acme": TenantRecord("acme", "free"), "newcomer": TenantRecord("newcomer", "gold")})
    back_end = ("x-api-key", BACKEND)

    assert caller(SET, back_end, tags={"tenant_id": "acme"}, records=records).plan == "pro"
    assert caller(SET, back_end, tags={"tenant_id": "newcomer"}, records=records).plan == "gold"


JWT = """
jwt: {user: email, team: groups.main, tenant: 'https://example.com/tenant', tags: {cost_center: cc, seat: seat}}
certificates: {virtual_account: uri, team: ou}
"""
CERTIFICATE = (
    "x-forwarded-client-cert",
    (
        'Hash=aa;URI=spiffe://evil;Subject="OU=evil",'
        r'By=spiffe://gw;Hash=bb;Subject="CN=web\, the \"one\",OU=shop,O=Acme";URI=spiffe://acme/web;DNS=web.acme'
    ),
)
CLAIMS = {
    "email": "ada@example.com",
    "groups": {"main": "search"},
    "https://example.com/tenant": "acme",
    "cc": "claims",
    "seat": 7.0,
}


@pytest.mark.parametrize(
    ("brings_key", "claims", "certificate", "source"),
    [
        (True, CLAIMS, True, Source.KEY),
        (True, None, True, Source.KEY),
        (False, CLAIMS, True, Source.JWT),
        (False, None, True, Source.CERTIFICATE),
        (False, {"unmapped": "x"}, True, Source.CERTIFICATE),
        (False, None, False, Source.NONE),
    ],
)
def test_the_strongest_source_decides_alone(
    brings_key: bool, claims: dict[str, object] | None, certificate: bool, source: Source
) -> None:
    """The table of docs/identity.md: key, then token, then certificate, then nobody; never a mixture."""
    snapshot = policy(identity_document(KEYS + JWT + "anonymous: allow\n"))
    headers = [*([BEARER] if brings_key else []), *([CERTIFICATE] if certificate else [])]
    found = caller(snapshot, *headers, claims=claims, tags={"cost_center": "mine"})

    assert found.source is source
    expected = {
        Source.KEY: (None, "ci-search", "search", "acme", "search"),
        Source.JWT: ("ada@example.com", None, "search", "acme", "claims"),
        Source.CERTIFICATE: (None, "spiffe://acme/web", "shop", None, "mine"),
        Source.NONE: (None, None, None, None, "mine"),
    }[source]
    assert (found.user, found.virtual_account, found.team, found.tenant, found.tags["cost_center"]) == expected


def test_a_token_brings_team_and_tenant_records() -> None:
    """Tags of team and tenant hold for callers by token as for those by key; numbers in claims become text."""
    found = caller(policy(identity_document(KEYS + JWT)), claims=CLAIMS, tags={"floor": "0"})

    assert (found.plan, found.tags["floor"], found.tags["seat"], found.tags["tenant_id"]) == ("pro", "3", "7", "acme")


@pytest.mark.parametrize("value", [True, None, ["a"], {"a": "b"}, "", "x" * 129, "a\nb"])
def test_a_claim_that_is_no_name_says_nothing(value: object) -> None:
    """Lists, objects, and texts too long to be a tag name nobody: cutting one could make it somebody else's."""
    snapshot = policy(identity_document(JWT + "anonymous: allow\n"))

    assert resolved(snapshot, claims={"email": value}) == Caller()


def test_a_certificate_header_means_nothing_unless_mapped() -> None:
    """A client that sends the header itself gains nothing where the policy set does not map certificates."""
    assert caller(policy(""), CERTIFICATE) == Caller()
