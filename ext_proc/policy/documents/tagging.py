"""Tags: which are required (`gateway-tagging-config`), and which are set by the gateway (`gateway-metadata-config`)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Literal

from ext_proc.identity.tags import tag_problem
from ext_proc.policy.documents.common import SubjectFilters, When, subject_problem, unique
from ext_proc.policy.fields import Located, Problem, optional, required
from ext_proc.policy.patterns import pattern_problem
from ext_proc.policy.scalars import shown

_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_NO_TAGS: Mapping[str, TagDefinition] = MappingProxyType({})


class TaggingMode(StrEnum):
    """What happens to an untagged request."""

    AUDIT = "audit"
    ENFORCE = "enforce"


class UnknownValue(StrEnum):
    """What happens to a tag value that the glossary does not list."""

    AUDIT = "audit"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True, kw_only=True)
class TagValue(Located):
    """One value of the glossary."""

    value: str = required("The value.", example="search")
    owner: str | None = optional("Who answers for what is spent under it.", example="search-leads@example.com")
    description: str | None = optional("What it stands for.", example="Search and ranking")
    dashboard: str | None = optional("Where its spend is shown.", example="https://grafana/d/search")


@dataclass(frozen=True, slots=True, kw_only=True)
class TagDefinition(Located):
    """One tag of the glossary."""

    description: str | None = optional("What the tag says.", example="Who pays")
    pattern: str | None = optional("What every value must look like, whole.", example="'[a-z][a-z0-9-]*'")
    values: tuple[TagValue, ...] = optional("The values that exist.", default=(), example="[{value: search}]")
    unknown_value: UnknownValue = optional(
        "A value that is not listed or does not fit the pattern: counted and let pass, or refused.",
        default=UnknownValue.AUDIT,
        example="refuse",
    )

    def problems(self) -> Iterator[Problem]:
        """The pattern compiles; the values fit it and differ."""
        yield from unique(self.values, "value")
        if self.pattern is not None:
            problem = pattern_problem(self.pattern)
            if problem:
                yield ("pattern", *problem)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaggingRule(Located):
    """Tags that requests must carry."""

    id: str = required("Names the rule.", example="everyone-names-a-cost-center")
    when: When = required("Which requests; `{}` is all of them.", example="{}")
    required_: tuple[str, ...] = required("The tags.", example="[cost_center]")
    mode: TaggingMode = optional(
        "`audit` warns, counts and lets pass; `enforce` answers 400.", default=TaggingMode.AUDIT, example="enforce"
    )

    def problems(self) -> Iterator[Problem]:
        """Something is required."""
        if not self.required_:
            yield ("required", "is empty", "name at least one tag, for example [cost_center]")


@dataclass(frozen=True, slots=True, kw_only=True)
class TaggingDocument(Located):
    """Which tags a request must carry, and what they mean."""

    name: str = required("Names the document.", example="tagging")
    type: Literal["gateway-tagging-config"] = required("The kind of document.", example="gateway-tagging-config")
    header: str = optional("The request header that carries the tags.", default="x-tfy-metadata", example="x-tags")
    rules: tuple[TaggingRule, ...] = optional("What is required.", default=(), example="[]")
    tags: Mapping[str, TagDefinition] = optional(
        "The glossary: tag → what it means.", factory=lambda: _NO_TAGS, example="{cost_center: {description: Who pays}}"
    )

    def problems(self) -> Iterator[Problem]:
        """Ids are unique; the header's name is one."""
        yield from unique(self.rules)
        if not _HEADER_NAME.fullmatch(self.header):
            yield ("header", f"{shown(self.header)} is no header name", "use letters, digits and hyphens")


@dataclass(frozen=True, slots=True, kw_only=True)
class CallerWhen(Located):
    """Which callers: what is decided by it cannot depend on the model."""

    subjects: tuple[str, ...] | SubjectFilters | None = optional("Who calls.", example="[team:search]")
    metadata: Mapping[str, str | tuple[str, ...]] = optional(
        "Tags that were sent, and the value or values each must have.",
        factory=lambda: MappingProxyType({}),
        example="{pipeline: nightly}",
        extension=True,
    )
    plans: tuple[str, ...] | None = optional("Plans of the caller's tenant.", example="[free]", extension=True)
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


@dataclass(frozen=True, slots=True, kw_only=True)
class MetadataRule(Located):
    """Tags that the gateway sets, whatever the client sent."""

    id: str = required("Names the rule.", example="search-team-pays-for-search")
    when: CallerWhen = required("Which callers; `{}` is all of them.", example="{subjects: [team:search]}")
    metadata_override: Mapping[str, str] = required("Tags and their values.", example="{cost_center: search}")

    def problems(self) -> Iterator[Problem]:
        """What the gateway sets must itself be a valid tag."""
        for key, value in self.metadata_override.items():
            problem = tag_problem(key, value)
            if problem:
                yield (f"metadata_override.{key}", problem, "write a tag that a client could send")


@dataclass(frozen=True, slots=True, kw_only=True)
class MetadataDocument(Located):
    """Trusted tags per caller; of two rules that set one tag, the later wins."""

    name: str = required("Names the document.", example="trusted-tags")
    type: Literal["gateway-metadata-config"] = required("The kind of document.", example="gateway-metadata-config")
    rules: tuple[MetadataRule, ...] = required("The rules, in order.", example="[]")

    def problems(self) -> Iterator[Problem]:
        """Ids are unique."""
        yield from unique(self.rules)
