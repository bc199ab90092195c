"""The tag glossary of a policy set, for people: what each tag means, its values, who owns them."""

from __future__ import annotations

from collections.abc import Iterator

from ext_proc.policy.documents.tagging import TagDefinition, TaggingDocument, TaggingMode, UnknownValue
from ext_proc.policy.snapshot import Snapshot

NO_OWNER = "(no owner)"


def glossary(snapshot: Snapshot) -> str:
    """The glossary as Markdown."""
    return "\n".join(_lines(snapshot)) + "\n"


def _lines(snapshot: Snapshot) -> Iterator[str]:
    header = snapshot.settings.metadata_header
    yield "# Tags"
    yield ""
    yield f"Every request carries its tags in the header `{header}`, as a JSON object of text values."
    required = list(_required(snapshot))
    if required:
        yield ""
        yield "| required | by rule | without it |"
        yield "|---|---|---|"
        yield from required
    for document in snapshot.documents_of(TaggingDocument):
        for tag, definition in document.tags.items():
            yield ""
            yield from _tag(tag, definition)


def _required(snapshot: Snapshot) -> Iterator[str]:
    for document in snapshot.documents_of(TaggingDocument):
        for rule in document.rules:
            consequence = "400" if rule.mode is TaggingMode.ENFORCE else "counted, and let pass"
            for tag in rule.required_:
                yield f"| `{tag}` | {_cell(rule.id)} | {consequence} |"


def _tag(tag: str, definition: TagDefinition) -> Iterator[str]:
    yield f"## `{tag}`"
    if definition.description:
        yield ""
        yield definition.description
    if definition.pattern:
        yield ""
        yield f"Values look like `{definition.pattern}`."
    if definition.values:
        yield ""
        refused = definition.unknown_value is UnknownValue.REFUSE
        yield "Other values are refused." if refused else "Other values are counted, and let pass."
        yield ""
        yield "| value | owner | stands for | spend |"
        yield "|---|---|---|---|"
        for entry in definition.values:
            cells = (f"`{entry.value}`", entry.owner or NO_OWNER, entry.description or "", entry.dashboard or "")
            yield "| " + " | ".join(_cell(cell) for cell in cells) + " |"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
