"""Guardrails: `gateway-guardrail-config`. What a single request may be, whatever the budget says."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from ext_proc.policy.documents.common import When, id_problems, region_problems, unique
from ext_proc.policy.fields import Located, Problem, optional, required
from ext_proc.policy.patterns import pattern_problem
from ext_proc.policy.scalars import shown


@dataclass(frozen=True, slots=True, kw_only=True)
class DeniedPattern(Located):
    """A text that no request may hold."""

    name: str = required("What the refusal calls it; the text itself is never repeated.", example="card number")
    pattern: str = required("RE2 syntax, found anywhere in the request's text.", example="\\b4[0-9]{15}\\b")

    def problems(self) -> Iterator[Problem]:
        """The pattern compiles."""
        problem = pattern_problem(self.pattern)
        if problem:
            yield ("pattern", *problem)


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardrailRule(Located):
    """Bounds of a single request. Every matching rule must be kept."""

    id: str = required("Names the rule.", example="no-huge-prompts")
    when: When = required("Which requests; `{}` is all of them.", example="{}")
    max_input_tokens: int | None = optional("The largest input, as estimated.", minimum=1, example="100000")
    max_output_tokens: int | None = optional("The largest output a request may ask for.", minimum=1, example="8192")
    max_body_bytes: int | None = optional("The largest body.", minimum=1, example="1048576")
    denied_patterns: tuple[DeniedPattern, ...] = optional(
        "Texts that are refused.", default=(), max_items=100, example="[{name: card number, pattern: '4[0-9]{15}'}]"
    )
    allow_models: tuple[str, ...] | None = optional("Only these may serve.", example="[openai-main/gpt-4o-mini]")
    deny_models: tuple[str, ...] = optional("None of these may serve.", default=(), example="[openai-main/gpt-4o]")
    allow_paths: tuple[str, ...] | None = optional(
        "Only these paths, and what lies below them, may be asked for.", example="[/v1/chat, /v1/messages]"
    )
    deny_paths: tuple[str, ...] = optional("None of these may.", default=(), example="[/v1/embeddings]")
    allowed_regions: tuple[str, ...] | None = optional(
        "Only targets in these regions may serve; `eu` is every region whose name begins with `eu-`, too.",
        example="[eu, switzerlandnorth]",
    )
    audit_mode: bool = optional("Count and warn, never refuse.", default=False, example="true")
    mitigation: str | None = optional("What a refused caller is told to do next.", example="Use the batch queue.")
    description: str | None = optional("For people who read the policy.", example="Staging stays cheap")

    def problems(self) -> Iterator[Problem]:
        """The rule guards something."""
        yield from id_problems(self.id)
        limits = (self.max_input_tokens, self.max_output_tokens, self.max_body_bytes)
        chosen = (self.allow_models, self.allow_paths, self.allowed_regions)
        denied = (self.denied_patterns, self.deny_models, self.deny_paths)
        if all(limit is None for limit in (*limits, *chosen)) and not any(denied):
            cure = "add a cap, denied_patterns, allow_models, deny_models, allow_paths, deny_paths or allowed_regions"
            yield ("", "guards nothing", cure)
        for name, paths in (("allow_paths", self.allow_paths or ()), ("deny_paths", self.deny_paths)):
            for index, path in enumerate(paths):
                if not path.startswith("/"):
                    yield (f"{name}[{index}]", f"{shown(path)} is no path", "start it with /")
        yield from region_problems("allowed_regions", self.allowed_regions)


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardrailDocument(Located):
    """Guardrails."""

    name: str = required("Names the document.", example="guardrails")
    type: Literal["gateway-guardrail-config"] = required("The kind of document.", example="gateway-guardrail-config")
    rules: tuple[GuardrailRule, ...] = required("The guardrails.", example="[]")

    def problems(self) -> Iterator[Problem]:
        """Ids are unique."""
        yield from unique(self.rules)
