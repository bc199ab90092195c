"""Names that lead nowhere: alert channels that are not defined, tag values that nobody owns."""

from __future__ import annotations

from collections.abc import Iterator

from ext_proc.policy.documents.budget import BudgetDocument
from ext_proc.policy.documents.budget_v2 import TeamBudgetDocument, TenantBudgetDocument
from ext_proc.policy.documents.common import Alerts, When
from ext_proc.policy.documents.notification import NotificationDocument
from ext_proc.policy.documents.rate_limit import RateDocument
from ext_proc.policy.documents.tagging import TaggingDocument
from ext_proc.policy.errors import PolicyError
from ext_proc.policy.scalars import nearest, shown
from ext_proc.policy.snapshot import Snapshot

COST_CENTER = "cost_center"


def people_warnings(snapshot: Snapshot) -> Iterator[PolicyError]:
    """Every warning about names of people and channels."""
    yield from _undefined_channels(snapshot)
    yield from _unlisted_values(snapshot)
    yield from _unowned(snapshot)


def _undefined_channels(snapshot: Snapshot) -> Iterator[PolicyError]:
    channels = {c.name: c.type for document in snapshot.documents_of(NotificationDocument) for c in document.channels}
    for alerts in _alerts(snapshot):
        for index, target in enumerate(alerts.notification_target):
            field = f"notification_target[{index}].notification_channel"
            kind = channels.get(target.notification_channel)
            if kind is None:
                problem = f"no channel is named {shown(target.notification_channel)}: its alerts stay in the outbox"
                cure = nearest(target.notification_channel, tuple(channels))
                yield alerts.where.error(field, problem, cure if channels else "add a gateway-notification-config")
            elif kind != target.type:
                problem = f"the channel {shown(target.notification_channel)} is a {kind}, not a {target.type}"
                yield alerts.where.error(field, problem, f"write type: {kind}, or name another channel")


def _alerts(snapshot: Snapshot) -> Iterator[Alerts]:
    for document in snapshot.documents:
        if isinstance(document, BudgetDocument):
            yield from (rule.alerts for rule in document.rules if rule.alerts is not None)
        elif isinstance(document, TenantBudgetDocument | TeamBudgetDocument) and document.alerts is not None:
            yield document.alerts


def _glossary(snapshot: Snapshot) -> dict[str, dict[str, str | None]]:
    """Tag → listed value → owner, for the tags that list values."""
    listed: dict[str, dict[str, str | None]] = {}
    for document in snapshot.documents_of(TaggingDocument):
        for tag, definition in document.tags.items():
            if definition.values:
                listed.setdefault(tag, {}).update({entry.value: entry.owner for entry in definition.values})
    return listed


def _conditions(snapshot: Snapshot) -> Iterator[When]:
    for document in snapshot.documents:
        if isinstance(document, BudgetDocument | RateDocument):
            yield from (rule.when for rule in document.rules)
        elif isinstance(document, TenantBudgetDocument | TeamBudgetDocument) and document.when is not None:
            yield document.when


def _unlisted_values(snapshot: Snapshot) -> Iterator[PolicyError]:
    """A rule on a tag value that the glossary does not list is a misspelling, or a value without an owner."""
    glossary = _glossary(snapshot)
    for when in _conditions(snapshot):
        for tag, wanted in when.metadata.items():
            values = (wanted,) if isinstance(wanted, str) else wanted if isinstance(wanted, tuple) else wanted.in_ or ()
            for value in values:
                known = glossary.get(tag)
                if known is not None and value not in known:
                    problem = f"{shown(value)} is not in the glossary of the tag {tag!r}"
                    yield when.where.error(f"metadata.{tag}", problem, nearest(value, tuple(known)))
                elif known is None and tag == COST_CENTER:
                    problem = f"the cost center {shown(value)} has no owner"
                    cure = "list it under tags.cost_center.values of a gateway-tagging-config"
                    yield when.where.error(f"metadata.{tag}", problem, cure)


def _unowned(snapshot: Snapshot) -> Iterator[PolicyError]:
    for document in snapshot.documents_of(TaggingDocument):
        definition = document.tags.get(COST_CENTER)
        for entry in definition.values if definition is not None else ():
            if not entry.owner:
                problem = f"the cost center {shown(entry.value)} has no owner"
                yield entry.where.error("value", problem, "add owner: who answers for what it spends")
