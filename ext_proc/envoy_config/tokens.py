"""Tokens of identity providers: Envoy verifies them before admit, which gets their claims as metadata.

Virtual keys and providers' keys come in the same headers. So a token is recognised by its shape, and only a request
that brings one is asked for a good one: what is no token goes on to admit, and what is a bad one ends here with 401.
"""

from __future__ import annotations

from typing import Final

from envoy_data_plane.envoy.config.core.v3 import (
    ApiVersion,
    ConfigSource,
    DataSource,
    ExtensionConfigSource,
    HttpUri,
    PathConfigSource,
    TypedExtensionConfig,
)
from envoy_data_plane.envoy.config.route.v3 import HeaderMatcher, RouteMatch
from envoy_data_plane.envoy.extensions.filters.http.jwt_authn.v3 import (
    JwksAsyncFetch,
    JwtAuthentication,
    JwtCacheConfig,
    JwtHeader,
    JwtProvider,
    JwtRequirement,
    JwtRequirementOrList,
    RemoteJwks,
    RequirementRule,
)
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import HttpFilter
from envoy_data_plane.envoy.type.matcher.v3 import RegexMatcher, StringMatcher

from ext_proc.envoy_config.contract import CLAIMS_KEY, CONTROL_PREFIX
from ext_proc.envoy_config.parts import packed, seconds
from ext_proc.envoy_config.settings import EnvoySettings, TokenIssuer
from ext_proc.identity.presented import CREDENTIAL_HEADERS

TOKENS_FILTER: Final = "tollgate.tokens"
FETCH_SECONDS: Final = 5.0
KEYS_KEPT_SECONDS: Final = 300.0
"""How long keys of an issuer are used before they are fetched anew: a new key must be published that long before."""

TOKENS_CACHED: Final = 1000  # per issuer and thread: a token is verified once, and its expiry each time

_TOKEN = r"\be[wy][A-Za-z0-9_-]*\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*"  # noqa: S105  the shape: a JSON object in base64url
_A_TOKEN = rf"(?s).*{_TOKEN}.*"
_SEVERAL = rf"(?s).*{_TOKEN}.*,.*|.*,.*{_TOKEN}.*"
"""Envoy joins repeated headers with commas, and would verify the first: who calls must not depend on the order."""

_NOWHERE = f"{CONTROL_PREFIX}no-token"
"""A header that no request has, because Envoy takes control headers off: no token is ever found there."""


def token_filters(settings: EnvoySettings) -> list[HttpFilter]:
    """The filter that verifies tokens: from the file that Envoy follows, else as it is, or none where nobody issues."""
    if settings.tokens_file is not None:
        return [HttpFilter(name=TOKENS_FILTER, config_discovery=_followed(settings.tokens_file))]
    if settings.token_issuers:
        return [HttpFilter(name=TOKENS_FILTER, typed_config=packed(token_filter(settings.token_issuers)))]
    return []


def followed_token_filter(settings: EnvoySettings) -> TypedExtensionConfig:
    """The filter as it stands in the file that Envoy follows. Without issuers it lets everything through."""
    return TypedExtensionConfig(name=TOKENS_FILTER, typed_config=packed(token_filter(settings.token_issuers)))


def token_filter(issuers: tuple[TokenIssuer, ...]) -> JwtAuthentication:
    """Each header that may hold a token has providers and rules of its own; the first header that has one counts."""
    if not issuers:
        return JwtAuthentication()
    providers = {
        _provider(issuer, header): _verification(issuer, header) for issuer in issuers for header in CREDENTIAL_HEADERS
    }
    nobody = f"{issuers[0].name} {_NOWHERE}"
    providers[nobody] = _verification(issuers[0], _NOWHERE)
    rules = [
        rule
        for header in CREDENTIAL_HEADERS
        for rule in (
            _rule(header, _SEVERAL, JwtRequirement(provider_name=nobody)),
            _rule(header, _A_TOKEN, _any_of([_provider(issuer, header) for issuer in issuers])),
        )
    ]
    return JwtAuthentication(providers=providers, rules=rules)


def _provider(issuer: TokenIssuer, header: str) -> str:
    return f"{issuer.name} {header}"


def _any_of(providers: list[str]) -> JwtRequirement:
    requirements = [JwtRequirement(provider_name=name) for name in providers]
    if len(requirements) == 1:
        return requirements[0]
    return JwtRequirement(requires_any=JwtRequirementOrList(requirements=requirements))


def _rule(header: str, pattern: str, requires: JwtRequirement) -> RequirementRule:
    shape = StringMatcher(safe_regex=RegexMatcher(regex=pattern))
    return RequirementRule(
        match=RouteMatch(prefix="/", headers=[HeaderMatcher(name=header, string_match=shape)]), requires=requires
    )


def _verification(issuer: TokenIssuer, header: str) -> JwtProvider:
    schemes = ("Bearer ", "bearer ") if header == "authorization" else ("",)
    provider = JwtProvider(
        issuer=issuer.issuer,
        audiences=list(issuer.audiences),
        require_expiration=True,
        forward=False,
        from_headers=[JwtHeader(name=header, value_prefix=scheme) for scheme in schemes],
        payload_in_metadata=CLAIMS_KEY,
        jwt_cache_config=JwtCacheConfig(jwt_cache_size=TOKENS_CACHED),
    )
    if issuer.jwks_uri is None:
        provider.local_jwks = DataSource(filename=issuer.jwks_file)
    else:
        provider.remote_jwks = RemoteJwks(
            http_uri=HttpUri(uri=issuer.jwks_uri, cluster=issuer.cluster, timeout=seconds(FETCH_SECONDS)),
            cache_duration=seconds(KEYS_KEPT_SECONDS),
            # Before anybody waits for them, and on one thread for all.
            async_fetch=JwksAsyncFetch(),
        )
    return provider


def _followed(file: str) -> ExtensionConfigSource:
    return ExtensionConfigSource(
        config_source=ConfigSource(path_config_source=PathConfigSource(path=file), resource_api_version=ApiVersion.V3),
        type_urls=[packed(JwtAuthentication()).type_url],
    )
