"""The tag header: every malformed one is answered with what is wrong and what would be right."""

from __future__ import annotations

import json

import pytest

from ext_proc.identity.errors import MetadataError
from ext_proc.identity.tags import MAX_HEADER_BYTES, MAX_TAGS, parse_tags
from ext_proc.policy.loader import load_files
from ext_proc.policy.yaml_source import SourceFile
from tests.identity_kit import caller as caller_of

HEADER = "x-tfy-metadata"
CURE = 'Send a JSON object of text values, for example x-tfy-metadata: {"cost_center": "search", "repo": "ranker"}'


def test_a_correct_header_is_read() -> None:
    """Text values of up to 128 characters, any language, empty ones too."""
    value = json.dumps({"cost_center": "search", "größe": "é" * 128, "empty": ""}, ensure_ascii=False)

    assert parse_tags(HEADER, [value]) == {"cost_center": "search", "größe": "é" * 128, "empty": ""}
    assert parse_tags(HEADER, []) == {}


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("", "The header x-tfy-metadata is empty."),
        ("cost_center=search", "The header x-tfy-metadata is not JSON (expecting value at character 1)."),
        ('{"a": "b"', "The header x-tfy-metadata is not JSON (expecting ',' delimiter at character 10)."),
        ('"search"', "The header x-tfy-metadata is a text, not a JSON object."),
        ("7", "The header x-tfy-metadata is a number, not a JSON object."),
        ('["a"]', "The header x-tfy-metadata is a list, not a JSON object."),
        ("null", "The header x-tfy-metadata is null, not a JSON object."),
        ('{"a": 1}', 'The header x-tfy-metadata has the tag "a" with a number, where only text is allowed.'),
        ('{"a": true}', 'The header x-tfy-metadata has the tag "a" with true or false, where only text is allowed.'),
        ('{"a": null}', 'The header x-tfy-metadata has the tag "a" with null, where only text is allowed.'),
        ('{"a": {"b": "c"}}', 'The header x-tfy-metadata has the tag "a" with an object, where only text is allowed.'),
        ('{"a": ["b"]}', 'The header x-tfy-metadata has the tag "a" with a list, where only text is allowed.'),
        ('{"a": "b", "a": "c"}', 'The header x-tfy-metadata names the tag "a" twice.'),
        (
            '{"a": "' + "x" * 129 + '"}',
            'The header x-tfy-metadata has the tag "a" that is 129 characters long, more than 128.',
        ),
        (
            '{"a": "b\\u0000"}',
            'The header x-tfy-metadata has the tag "a" that holds a character that cannot be printed.',
        ),
        (
            '{"": "b"}',
            'The header x-tfy-metadata has the tag "" that is not named with 1 to 64 printable characters.',
        ),
        ("[" * 100_000, "The header x-tfy-metadata is 100000 bytes long, more than 8192."),
        ("[" * 8_000, "The header x-tfy-metadata is nested too deeply."),
        ('{"a": ' + "9" * 5_000 + "}", "The header x-tfy-metadata is not JSON (a number in it is too long)."),
        ('{"a": "\udcff"}', "The header x-tfy-metadata is not valid UTF-8."),
    ],
)
def test_a_malformed_header_says_what_is_wrong(line: str, problem: str) -> None:
    """Each fault has its own sentence."""
    with pytest.raises(MetadataError) as caught:
        parse_tags(HEADER, [line])

    assert str(caught.value) == problem
    assert caught.value.cure.endswith('x-tfy-metadata: {"cost_center": "search", "repo": "ranker"}')


def test_the_cure_is_a_header_that_is_accepted() -> None:
    """A caller who copies the example out of the refusal passes."""
    with pytest.raises(MetadataError) as caught:
        parse_tags(HEADER, ["nonsense"])

    assert caught.value.cure == CURE
    assert parse_tags(HEADER, [caught.value.cure.partition(f"{HEADER}: ")[2]])


def test_a_repeated_header_line_is_refused_even_if_equal() -> None:
    """Two lines could be joined or chosen between in two ways; neither is guessed."""
    with pytest.raises(MetadataError, match="is sent 2 times"):
        parse_tags(HEADER, ['{"a": "b"}', '{"a": "b"}'])


def test_too_many_tags_are_refused() -> None:
    """The number of tags is bounded; the bound itself passes."""
    tags = {f"k{index}": "v" for index in range(MAX_TAGS)}
    assert parse_tags(HEADER, [json.dumps(tags)]) == tags

    with pytest.raises(MetadataError, match="has 65 tags, more than 64"):
        parse_tags(HEADER, [json.dumps({**tags, "more": "v"})])


def test_the_size_is_counted_in_bytes() -> None:
    """A header of exactly the bound passes, one byte more does not."""
    filler = json.dumps({f"key-{index:02d}": "v" * 128 for index in range(55)})
    line = filler + " " * (MAX_HEADER_BYTES - len(filler))
    assert len(parse_tags(HEADER, [line])) == 55

    with pytest.raises(MetadataError, match="8193 bytes"):
        parse_tags(HEADER, [line + " "])


METADATA = b"""
name: trusted
type: gateway-metadata-config
rules:
  - {id: nightly-pays, when: {metadata: {pipeline: nightly}}, metadata_override: {cost_center: batch}}
  - {id: all, when: {}, metadata_override: {gateway: tollgate}}
"""


def test_a_caller_without_a_key_is_unverified_and_has_no_team_or_tenant() -> None:
    """Identity is not what the client says: tags named team, tenant_id or plan stay tags and select nothing."""
    line = '{"user": "ann", "team": "search", "tenant_id": "acme", "plan": "pro", "virtual_account": "ci"}'

    caller = caller_of(load_files([SourceFile("a", b"")]), ("x-tfy-metadata", line), ("x-team", "search"))

    assert (caller.user, caller.verified) == ("ann", False)
    assert (caller.team, caller.tenant, caller.plan, caller.virtual_account) == (None, None, None, None)
    assert caller.tags["tenant_id"] == "acme"


def test_tags_set_by_policy_override_those_sent() -> None:
    """A trusted tag wins over the header, for the callers its rule matches."""
    snapshot = load_files([SourceFile("a.yaml", METADATA)])

    nightly = caller_of(snapshot, (HEADER, '{"pipeline": "nightly", "cost_center": "mine"}'))
    other = caller_of(snapshot, (HEADER, '{"pipeline": "daily", "cost_center": "mine"}'))

    assert nightly.tags == {"pipeline": "nightly", "cost_center": "batch", "gateway": "tollgate"}
    assert other.tags == {"pipeline": "daily", "cost_center": "mine", "gateway": "tollgate"}


def test_the_header_can_have_another_name() -> None:
    """A tagging document names the header; its case does not matter, and the old name is then no tag header."""
    text = b"name: t\ntype: gateway-tagging-config\nheader: X-Tags\n"

    caller = caller_of(load_files([SourceFile("a", text)]), ("x-tags", '{"a": "b"}'), (HEADER, "nonsense"))

    assert caller.tags == {"a": "b"}
