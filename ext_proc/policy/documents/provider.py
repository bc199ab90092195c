"""Provider accounts: `gateway-provider-config`. Where requests go, with which credential, at which private prices."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from enum import StrEnum
from types import MappingProxyType
from typing import ClassVar, Literal
from urllib.parse import urlsplit

from ext_proc.policy.documents.common import region_problem, unique
from ext_proc.policy.fields import Located, Problem, optional, required
from ext_proc.policy.scalars import shown
from ext_proc.policy.terms import AwsSource

DEFAULT_ENDPOINTS: Mapping[str, str] = MappingProxyType(
    {
        "openai": "https://api.openai.com",
        "anthropic": "https://api.anthropic.com",
        "gemini": "https://generativelanguage.googleapis.com",
        "mistral": "https://api.mistral.ai",
        "groq": "https://api.groq.com/openai",
        "together": "https://api.together.xyz",
        "deepseek": "https://api.deepseek.com",
        "xai": "https://api.x.ai",
        "fireworks": "https://api.fireworks.ai/inference",
        "cohere": "https://api.cohere.com",
        "openrouter": "https://openrouter.ai/api",
    }
)
"""Providers with one public endpoint."""

PROVIDERS = (*DEFAULT_ENDPOINTS, "azure-openai", "vertex", "bedrock", "openai-compatible")

_ACCOUNT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


class TierMode(StrEnum):
    """How a tier's price applies once the input passes its threshold."""

    WHOLE_REQUEST = "whole_request"
    MARGINAL = "marginal"


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceTier(Located):
    """A price from a size on."""

    from_: int = required("Input tokens from which it applies.", minimum=1, example="200000")
    cost_per_token: Decimal = required("Dollars per token.", minimum=0, example="0.0000025")


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenPrices(Located):
    """Dollars per 1,000 tokens."""

    input: Decimal = required("Input.", minimum=0, example="0.0025")
    output: Decimal = required("Output.", minimum=0, example="0.01")
    cache_read: Decimal | None = optional("Input read from the cache.", minimum=0, example="0.00125")
    cache_write: Decimal | None = optional("Input written to the cache.", minimum=0, example="0.003125")
    cache_write_1h: Decimal | None = optional("Input written for an hour.", minimum=0, example="0.005")
    audio_input: Decimal | None = optional("Audio read.", minimum=0, example="0.04")
    audio_output: Decimal | None = optional("Audio written.", minimum=0, example="0.08")
    image_input: Decimal | None = optional("Images read.", minimum=0, example="0.005")
    image_output: Decimal | None = optional("Images written.", minimum=0, example="0.04")
    video_input: Decimal | None = optional("Video read.", minimum=0, example="0.01")
    reasoning: Decimal | None = optional("Reasoning, where it differs from output.", minimum=0, example="0.01")
    input_tiers: tuple[PriceTier, ...] = optional(
        "Input prices by size.", default=(), example="[{from: 200000, cost_per_token: 0.0000025}]"
    )
    output_tiers: tuple[PriceTier, ...] = optional("Output prices by size.", default=(), example="[]")
    cache_read_tiers: tuple[PriceTier, ...] = optional("Cache read prices by size.", default=(), example="[]")
    cache_write_tiers: tuple[PriceTier, ...] = optional("Cache write prices by size.", default=(), example="[]")


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuPrice(Located):
    """What a self-hosted model costs while it serves."""

    rate: Decimal = required("Dollars per GPU and hour.", minimum=0, example="2.50")
    gpus: int = optional("How many GPUs serve one request.", default=1, minimum=1, example="4")


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivateCost(Located):
    """A private price: one or more of these, which add up."""

    per_1000_tokens: TokenPrices | None = optional("Per token.", example="{input: 0.0025, output: 0.01}")
    per_1000_embedding_tokens: Decimal | None = optional("Dollars per 1,000.", minimum=0, example="0.00002")
    per_million_characters: Decimal | None = optional("Dollars per million.", minimum=0, example="15")
    per_minute_of_audio: Decimal | None = optional("Dollars per minute.", minimum=0, example="0.006")
    per_image: Decimal | None = optional("Dollars per image.", minimum=0, example="0.04")
    per_request: Decimal | None = optional("Dollars per request.", minimum=0, example="0.01")
    per_search: Decimal | None = optional("Dollars per web search.", minimum=0, example="0.01")
    per_gpu_hour: GpuPrice | None = optional("Wall time times rate.", example="{rate: 2.50, gpus: 4}")
    tier_mode: TierMode = optional(
        "`whole_request`: past a tier the whole request has its price. `marginal`: only what lies above.",
        default=TierMode.WHOLE_REQUEST,
        example="marginal",
    )
    from_: str | None = optional("The day from which the price holds.", example="2026-01-01")

    def problems(self) -> Iterator[Problem]:
        """A price prices something, from a day that exists."""
        if not any(getattr(self, name) is not None for name in COST_KINDS):
            yield ("", "prices nothing", "add one of: " + ", ".join(COST_KINDS))
        if self.from_ is not None and parse_day(self.from_) is None:
            yield ("from", f"{shown(self.from_)} is no day", "write YYYY-MM-DD")


COST_KINDS = (
    "per_1000_tokens",
    "per_1000_embedding_tokens",
    "per_million_characters",
    "per_minute_of_audio",
    "per_image",
    "per_request",
    "per_search",
    "per_gpu_hour",
)


def parse_day(text: str) -> date | None:
    """A day written YYYY-MM-DD; None where it is none."""
    try:
        return date.fromisoformat(text)
    except ValueError:
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Model(Located):
    """A model of the account."""

    name: str = required("The model, as the provider names it.", example="gpt-4o")
    region: str | None = optional("Where it is served, where that is not the account's region.", example="eu-west-1")
    cost: Literal["public_cost"] | PrivateCost | tuple[PrivateCost, ...] = optional(
        "`public_cost`, a private price, or a list of prices with `from` days.",
        default="public_cost",
        example="{per_1000_tokens: {input: 0.0025, output: 0.01}}",
    )

    def problems(self) -> Iterator[Problem]:
        """In a list of prices every one but the first has a day, and the days rise."""
        yield from _region_problems(self.region)
        if isinstance(self.cost, tuple):
            if not self.cost:
                yield ("cost", "is an empty list", "write public_cost or at least one price")
            days = [cost.from_ or "" for cost in self.cost]
            for index in range(1, len(days)):
                if days[index] <= days[index - 1]:
                    yield (f"cost[{index}].from", "is not later than the price before it", "order prices by day")


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential(Located):
    """Where the provider's key is, never the key."""

    written_as: ClassVar[str] = "{env: NAME}, {file: PATH} or {aws: SOURCE}, never the secret itself"

    env: str | None = optional("An environment variable of the sidecar.", example="OPENAI_API_KEY")
    file: str | None = optional("A mounted file, read again when it changes.", example="/etc/tollgate/openai.key")
    client: bool = optional("Whether each client brings a provider key of its own.", default=False, example="true")
    aws: AwsSource | None = optional(
        "Bedrock: Envoy signs each attempt (SigV4) with the AWS credentials of its `environment`, of `file` (in the "
        "form of ~/.aws/credentials), or of the first place of AWS's own `chain` that has some.",
        example="environment",
    )
    profile: str | None = optional("The profile in that file; `default` where left out.", example="bedrock")

    def problems(self) -> Iterator[Problem]:
        """One place, not two."""
        if self.aws is not None:
            yield from self._aws_problems(self.aws)
            return
        if [self.env is not None, self.file is not None, self.client].count(True) != 1:
            cure = "write either {env: NAME} or {file: PATH}, or {client: true} where clients bring their own"
            yield ("", "names no single place of the secret", cure)
        if self.profile is not None:
            yield ("profile", "stands without an AWS credentials file", "write {aws: file, file: PATH, profile: NAME}")

    def _aws_problems(self, source: AwsSource) -> Iterator[Problem]:
        if self.env is not None or self.client:
            yield ("aws", "is not the only credential", "write aws, or env, or client")
        if (source is AwsSource.FILE) != (self.file is not None):
            yield ("file", "goes with aws: file and with no other", "write {aws: file, file: PATH}")
        if self.profile is not None and source is not AwsSource.FILE:
            yield ("profile", "goes with aws: file only", "write {aws: file, file: PATH, profile: NAME}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Account(Located):
    """One provider account."""

    name: str = required("Names the account: the first part of `account/model`.", example="openai-main")
    provider: str = required("Whose API it speaks.", one_of=PROVIDERS, example="openai")
    endpoint: str | None = optional(
        "Base URL, where it is not the provider's public one.", example="http://llm.internal:8000"
    )
    region: str | None = optional(
        "Where its models are served: what `allowed_regions` of a guardrail is about.", example="eu-central-1"
    )
    credential: Credential | None = optional("Where the key is.", example="{env: OPENAI_API_KEY}")
    models: tuple[Model, ...] = optional("Models with prices of their own.", default=(), example="[{name: gpt-4o}]")

    def problems(self) -> Iterator[Problem]:
        """The name can stand before a slash; the endpoint is one."""
        yield from _region_problems(self.region)
        yield from account_problems(self.name, self.provider, self.endpoint, self.models)
        yield from signing_problems(self.provider, self.region, self.credential)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderDocument(Located):
    """Provider accounts: a list, or the one account that the document itself names."""

    name: str = required("Names the document; without `accounts`, the account too.", example="providers")
    type: Literal["gateway-provider-config"] = required("The kind of document.", example="gateway-provider-config")
    accounts: tuple[Account, ...] | None = optional(
        "The accounts.", example="[{name: openai-main, provider: openai, credential: {env: OPENAI_API_KEY}}]"
    )
    provider: str | None = optional("One account: whose API it speaks.", one_of=PROVIDERS, example="openai")
    endpoint: str | None = optional("One account: base URL.", example="http://llm.internal:8000")
    region: str | None = optional("One account: where its models are served.", example="eu-central-1")
    credential: Credential | None = optional("One account: where the key is.", example="{env: OPENAI_API_KEY}")
    models: tuple[Model, ...] = optional("One account: models with prices of their own.", default=(), example="[]")

    def problems(self) -> Iterator[Problem]:
        """Either a list of accounts or one account."""
        if self.accounts is not None:
            for name in ("provider", "endpoint", "region", "credential", "models"):
                if getattr(self, name):
                    yield (name, "stands beside accounts", "move it into an account")
            yield from unique(self.accounts, "name")
        elif self.provider is None:
            yield ("accounts", "is missing", "add accounts, or provider for the one account of this name")
        else:
            yield from _region_problems(self.region)
            yield from account_problems(self.name, self.provider, self.endpoint, self.models)
            yield from signing_problems(self.provider, self.region, self.credential)

    def all_accounts(self) -> tuple[Account, ...]:
        """The accounts, whichever way they are written."""
        if self.accounts is not None:
            return self.accounts
        assert self.provider is not None, "problems() refuses a document without accounts"
        return (
            Account(
                where=self.where,
                name=self.name,
                provider=self.provider,
                endpoint=self.endpoint,
                region=self.region,
                credential=self.credential,
                models=self.models,
            ),
        )


def _region_problems(region: str | None) -> Iterator[Problem]:
    problem = None if region is None else region_problem(region)
    if problem:
        yield ("region", *problem)


def account_problems(name: str, provider: str, endpoint: str | None, models: tuple[Model, ...]) -> Iterator[Problem]:
    """What is wrong with one account."""
    if not _ACCOUNT_NAME.fullmatch(name):
        yield ("name", f"{shown(name)} is no account name", "use at most 63 letters, digits, '.', '_' and '-'")
    yield from unique(models, "name")
    if endpoint is None:
        if provider not in DEFAULT_ENDPOINTS:
            yield ("endpoint", f"is missing and {provider} has no public one", "add the base URL")
        return
    try:
        parts = urlsplit(endpoint)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        usable = False
        parts = urlsplit("")
    if not usable or parts.query or parts.fragment:
        yield ("endpoint", f"{shown(endpoint)} is no base URL", "write http(s)://host[:port][/path]")
    elif parts.username or parts.password:
        yield ("endpoint", "carries a credential", "use credential: {env: NAME} or {file: PATH}")


def signing_problems(provider: str, region: str | None, credential: Credential | None) -> Iterator[Problem]:
    """What is wrong with an account whose requests are to be signed."""
    if credential is None or credential.aws is None:
        return
    if provider != "bedrock":
        yield (
            "credential.aws",
            f"signs requests, and {provider} wants none signed",
            "write {env: NAME} or {file: PATH}",
        )
    elif region is None:
        yield ("region", "is missing, and a signature is for one region", "add region, as in us-east-1")
