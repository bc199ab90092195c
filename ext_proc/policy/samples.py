"""Sample requests: a file of what real callers send, to see that every rule has a request it is about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from ext_proc.identity.caller import Caller
from ext_proc.policy.errors import PolicyError, PolicySetError
from ext_proc.policy.fields import Located, optional, required
from ext_proc.policy.scalars import Sink
from ext_proc.policy.schema import decode
from ext_proc.policy.snapshot import MatchFacts
from ext_proc.policy.yaml_source import SourceFile, parse_file

_DEFAULT_ACCOUNT = "openai-main"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample(Located):
    """One request."""

    model: str = required("As requested.", example="gpt-4o")
    target: str | None = optional("What serves, where the model is virtual.", example="openai-main/gpt-4o")
    user: str | None = optional("Who calls.", example="alice@example.com")
    team: str | None = optional("Who calls.", example="search")
    virtual_account: str | None = optional("Who calls.", example="ci")
    tenant: str | None = optional("Who calls.", example="acme")
    plan: str | None = optional("The tenant's plan.", example="pro")
    tags: Mapping[str, str] = optional(
        "What the tag header holds.", factory=lambda: MappingProxyType({}), example="{cost_center: search}"
    )

    def facts(self) -> MatchFacts:
        """What rules are matched on."""
        caller = Caller(
            user=self.user,
            team=self.team,
            virtual_account=self.virtual_account,
            tenant=self.tenant,
            plan=self.plan,
            tags=self.tags,
        )
        target = self.target or (self.model if "/" in self.model else f"{_DEFAULT_ACCOUNT}/{self.model}")
        return MatchFacts(caller, self.model, target)


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleFile(Located):
    """A file of samples."""

    samples: tuple[Sample, ...] = required("The requests.", example="[{model: gpt-4o, tags: {cost_center: search}}]")


def read_samples(path: Path) -> tuple[MatchFacts, ...]:
    """The requests of a file. Raises PolicySetError with every error in it."""
    try:
        file = SourceFile(path.name, path.read_bytes())
    except OSError as error:
        problem = f"cannot be read ({error.strerror})"
        raise PolicySetError((PolicyError(str(path), 0, "(file)", problem, "name a readable file"),)) from error
    documents, errors = parse_file(file)
    sink = Sink(file.name)
    decoded = [decode(SampleFile, document.root, sink) for document in documents]
    if errors or sink.errors:
        raise PolicySetError((*errors, *sink.errors))
    return tuple(sample.facts() for found in decoded if found is not None for sample in found.samples)
