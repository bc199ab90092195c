"""What documents share: `when`, buckets, rule ids, alerts, references to secrets."""

from __future__ import annotations

import re
import zoneinfo
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from types import MappingProxyType
from typing import ClassVar, Literal

from ext_proc.policy.fields import Located, Problem, optional, required
from ext_proc.policy.scalars import closest, nearest, shown

MAX_ID_CHARS = 200
MAX_APPLIES_PER = 8
SUBJECT_KINDS = ("user", "team", "virtualaccount", "tenant")
CALLER_KEYS = ("user", "team", "virtualaccount", "tenant", "model")
ANYONE = "*"

_VIRTUAL_ACCOUNT_SPELLINGS = frozenset({"virtual-account", "virtual_account"})
_REGION = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_NO_METADATA: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class InNotIn(Located):
    """A filter of the V2 shape: the value is in one list and not in another."""

    in_: tuple[str, ...] | None = optional("Match when the value is in this list.", example="[search, ads]")
    not_in: tuple[str, ...] | None = optional("Match when the value is not in this list.", example="[sandbox]")


@dataclass(frozen=True, slots=True, kw_only=True)
class SubjectFilters(Located):
    """`subjects` in the V2 shape: a filter per kind of subject, all of which must hold. Values are bare ids."""

    users: InNotIn | None = optional("Users.", example="{in: [alice@example.com]}")
    teams: InNotIn | None = optional("Teams.", example="{in: [backend]}")
    virtual_accounts: InNotIn | None = optional("Virtual accounts.", example="{not_in: [ci]}")
    tenants: InNotIn | None = optional("Tenants.", example="{in: [acme]}", extension=True)


TagCondition = str | tuple[str, ...] | InNotIn


@dataclass(frozen=True, slots=True, kw_only=True)
class When(Located):
    """Which requests a rule is about. All conditions that are present must hold; `{}` matches everything."""

    subjects: tuple[str, ...] | SubjectFilters | None = optional(
        "Who calls: `user:<id>`, `team:<id>`, `virtualaccount:<id>`, `tenant:<id>` or `*`, any of them; "
        "or filters per kind.",
        example="[team:search, user:alice@example.com]",
    )
    models: tuple[str, ...] | InNotIn | None = optional(
        "What serves: `account/model`, or the name of a virtual model as requested; any of them.",
        example="[openai-main/gpt-4o]",
    )
    provider_accounts: InNotIn | None = optional("Which provider accounts serve.", example="{in: [openai-main]}")
    metadata: Mapping[str, TagCondition] = optional(
        "Tags and the value, or list of values, each must have; all of them.",
        factory=lambda: _NO_METADATA,
        example="{cost_center: search, environment: [staging, dev]}",
    )
    plans: tuple[str, ...] | None = optional(
        "Plans of the caller's tenant, from the tenant record only.", example="[free]", extension=True
    )
    environments: tuple[str, ...] | None = optional(
        "Short for the tag `environment`.", example="[production]", extension=True
    )

    def problems(self) -> Iterator[Problem]:
        """Subjects must name a kind that exists."""
        if isinstance(self.subjects, tuple):
            for index, subject in enumerate(self.subjects):
                problem = subject_problem(subject)
                if problem:
                    yield (f"subjects[{index}]", *problem)
        if self.environments is not None and "environment" in self.metadata:
            yield ("environments", "stands beside metadata.environment", "keep one of the two")


def split_subject(subject: str) -> tuple[str, str]:
    """(kind, id) of `team:backend`; both spellings of a virtual account are one kind."""
    kind, _, name = subject.partition(":")
    return ("virtualaccount" if kind in _VIRTUAL_ACCOUNT_SPELLINGS else kind), name


def subject_problem(subject: str) -> tuple[str, str] | None:
    """Why a text names no subject: (problem, cure)."""
    if subject == ANYONE:
        return None
    kind, name = split_subject(subject)
    if ":" not in subject:
        return f"{shown(subject)} names no kind of subject", f"write 'user:{subject}', 'team:{subject}' or '*'"
    if kind not in SUBJECT_KINDS:
        return f"{shown(kind)} is no kind of subject", nearest(kind, SUBJECT_KINDS)
    if not name or name == ANYONE:
        return f"{shown(subject)} names nobody", "write '*' alone for every caller"
    return None


def region_problems(field: str, regions: Sequence[str] | None) -> Iterator[Problem]:
    """What is wrong with a list of regions."""
    if regions is not None and not regions:
        yield (field, "is empty: nobody could serve", "name a region, or remove it")
    for index, region in enumerate(regions or ()):
        problem = region_problem(region)
        if problem:
            yield (f"{field}[{index}]", *problem)


def region_problem(region: str) -> tuple[str, str] | None:
    """Why a text is no region: (problem, cure)."""
    if _REGION.fullmatch(region):
        return None
    return f"{shown(region)} is no region", "write small letters, digits and hyphens, for example eu-central-1"


def bucket_key(written: str) -> str:
    """A bucket key in its one spelling."""
    return "virtualaccount" if written in _VIRTUAL_ACCOUNT_SPELLINGS else written


def bucket_key_problem(written: str) -> tuple[str, str] | None:
    """Why a text is no bucket key: (problem, cure)."""
    key = bucket_key(written)
    if key in CALLER_KEYS or (key.startswith("metadata.") and len(key) > len("metadata.")):
        return None
    tag = key.partition(".")[2] if "." in key else key
    close = closest(key, CALLER_KEYS)
    guess = close[0] if close else f"metadata.{tag or '<key>'}"
    return f"{shown(written)} is nothing to count per", f"did you mean {guess!r}?"


def placeholders(rule_id: str) -> tuple[str, ...]:
    """The bucket keys that a templated id names, in order: `project-{metadata.project_id}` → `metadata.project_id`."""
    return tuple(dict.fromkeys(bucket_key(found) for found in _PLACEHOLDER.findall(rule_id)))


def fill(rule_id: str, values: Mapping[str, str]) -> str:
    """A templated id with its placeholders replaced."""
    return _PLACEHOLDER.sub(lambda match: values[bucket_key(match[1])], rule_id)


def id_problems(rule_id: str) -> Iterator[tuple[str, str, str]]:
    """What is wrong with a rule's id."""
    if not rule_id.strip() or len(rule_id) > MAX_ID_CHARS or not rule_id.isprintable():
        yield ("id", f"{shown(rule_id)} is no usable id", f"write 1 to {MAX_ID_CHARS} printable characters")
    for found in _PLACEHOLDER.findall(rule_id):
        problem = bucket_key_problem(found)
        if problem:
            yield ("id", *problem)
    if set("{}") & set(_PLACEHOLDER.sub("", rule_id)):
        yield ("id", f"{shown(rule_id)} has a brace without its partner", "write {metadata.<key>} or no braces")


def applies_per_problems(field: str, keys: Sequence[str]) -> Iterator[Problem]:
    """What is wrong with a list of bucket keys."""
    for index, key in enumerate(keys):
        problem = bucket_key_problem(key)
        if problem:
            yield (f"{field}[{index}]", *problem)
        elif bucket_key(key) in {bucket_key(earlier) for earlier in keys[:index]}:
            yield (f"{field}[{index}]", f"{shown(key)} stands twice", "keep one")


@lru_cache(maxsize=256)
def timezone_problem(name: str) -> tuple[str, str] | None:
    """Why a text names no time zone: (problem, cure)."""
    try:
        zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        known = sorted(zone for zone in zoneinfo.available_timezones() if "/" in zone or zone == "UTC")
        close = nearest(name, known)
        cure = close if close.startswith("did") else "use an IANA name such as 'Europe/Berlin' or 'UTC'"
        return f"{shown(name)} is no time zone", cure
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class SlackWebhookTarget(Located):
    """A Slack incoming webhook."""

    type: Literal["slack-webhook"] = required("The kind of target.", example="slack-webhook")
    notification_channel: str = required("The channel's name in the notification document.", example="eng-alerts")


@dataclass(frozen=True, slots=True, kw_only=True)
class SlackBotTarget(Located):
    """A Slack bot that writes into channels."""

    type: Literal["slack-bot"] = required("The kind of target.", example="slack-bot")
    notification_channel: str = required("The channel's name in the notification document.", example="eng-alerts")
    channels: tuple[str, ...] = required("Slack channels.", example="['#search-ai']")


@dataclass(frozen=True, slots=True, kw_only=True)
class EmailTarget(Located):
    """E-mail."""

    type: Literal["email"] = required("The kind of target.", example="email")
    notification_channel: str = required("The channel's name in the notification document.", example="mail")
    to_emails: tuple[str, ...] = required("Recipients.", example="[lead@example.com]")


@dataclass(frozen=True, slots=True, kw_only=True)
class PagerDutyTarget(Located):
    """PagerDuty."""

    type: Literal["pagerduty"] = required("The kind of target.", example="pagerduty")
    notification_channel: str = required("The channel's name in the notification document.", example="on-call")


@dataclass(frozen=True, slots=True, kw_only=True)
class TeamsWebhookTarget(Located):
    """A Microsoft Teams webhook."""

    type: Literal["ms-teams-webhook"] = required("The kind of target.", example="ms-teams-webhook")
    notification_channel: str = required("The channel's name in the notification document.", example="teams")


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookTarget(Located):
    """Any HTTP endpoint, signed."""

    type: Literal["webhook"] = required("The kind of target.", example="webhook")
    notification_channel: str = required("The channel's name in the notification document.", example="finops")


NotificationTarget = (
    SlackWebhookTarget | SlackBotTarget | EmailTarget | PagerDutyTarget | TeamsWebhookTarget | WebhookTarget
)

DEFAULT_THRESHOLDS = (Decimal(75), Decimal(90), Decimal(95), Decimal(100))


@dataclass(frozen=True, slots=True, kw_only=True)
class Alerts(Located):
    """Who is told, and when: one alert per rule, bucket, window and threshold."""

    thresholds: tuple[Decimal, ...] = optional(
        "Percent of the cap that is spent; a fraction is rounded up to a whole percent.",
        default=DEFAULT_THRESHOLDS,
        example="[75, 90, 100]",
        minimum=1,
        maximum=1000,
        max_items=20,
    )
    notification_target: tuple[NotificationTarget, ...] = optional(
        "Where alerts go.",
        default=(),
        example="[{type: email, notification_channel: mail, to_emails: [lead@example.com]}]",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretRef(Located):
    """Where a secret is, never the secret."""

    written_as: ClassVar[str] = "{env: NAME} or {file: PATH}, never the secret itself"

    env: str | None = optional("An environment variable of the sidecar.", example="OPENAI_API_KEY")
    file: str | None = optional("A mounted file, read again when it changes.", example="/etc/tollgate/openai.key")

    def problems(self) -> Iterator[Problem]:
        """One place, not two."""
        if (self.env is None) == (self.file is None):
            yield ("", "names no single place of the secret", "write either {env: NAME} or {file: PATH}")


def unique(items: Sequence[Located], field: str = "id") -> Iterator[Problem]:
    """Entries of one list must have distinct ids."""
    seen: dict[str, int] = {}
    for item in items:
        name = getattr(item, field)
        if name in seen:
            yield item.where.error(field, f"{shown(name)} stands already on line {seen[name]}", "give each its own")
        seen.setdefault(name, item.where.line)
