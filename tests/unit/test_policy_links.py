"""Links in refusals carry the rule and the tags, safely."""

from __future__ import annotations

from ext_proc.policy.links import filled


def test_places_are_filled() -> None:
    """The rule and any tag can stand in a link; what is no place stays."""
    link = "https://g/q?rule={rule}&cc={metadata.cost_center}&x={other}"

    assert filled(link, rule="search-weekly", tags={"cost_center": "search"}) == (
        "https://g/q?rule=search-weekly&cc=search&x={other}"
    )


def test_values_cannot_change_the_link() -> None:
    """A tag is the client's text: it is encoded, never a place itself, and a missing one is empty."""
    tags = {"cost_center": "a&b=c/../{rule}#"}

    assert filled("/q?cc={metadata.cost_center}", rule="r", tags=tags) == "/q?cc=a%26b%3Dc%2F..%2F%7Brule%7D%23"
    assert filled("/q?cc={metadata.cost_center}", rule="r", tags={}) == "/q?cc="
