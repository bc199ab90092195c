"""AWS SigV4: Envoy signs what a Bedrock account is sent, as the last thing before the wire.

In the upstream filter chain, so after everything that admit and try have rewritten, and anew on every attempt.
"""

from __future__ import annotations

from pathlib import Path

from envoy_data_plane.envoy.config.core.v3 import DataSource, TypedExtensionConfig, WatchedDirectory
from envoy_data_plane.envoy.extensions.common.aws.v3 import (
    AwsCredentialProvider,
    CredentialsFileCredentialProvider,
    EnvironmentCredentialProvider,
)
from envoy_data_plane.envoy.extensions.common.matching.v3 import ExtensionWithMatcher
from envoy_data_plane.envoy.extensions.filters.common.matcher.action.v3 import SkipFilter
from envoy_data_plane.envoy.extensions.filters.http.aws_request_signing.v3 import AwsRequestSigning
from envoy_data_plane.envoy.extensions.filters.http.header_mutation.v3 import HeaderMutation, Mutations
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import HttpFilter
from envoy_data_plane.envoy.type.matcher.v3 import HttpRequestHeaderMatchInput, StringMatcher
from envoy_data_plane.xds.core.v3 import TypedExtensionConfig as XdsExtensionConfig
from envoy_data_plane.xds.type.matcher.v3 import (
    Matcher,
    MatcherMatcherList,
    MatcherMatcherListFieldMatcher,
    MatcherMatcherListPredicate,
    MatcherMatcherListPredicateSinglePredicate,
    MatcherOnMatch,
)
from envoy_data_plane.xds.type.matcher.v3 import StringMatcher as XdsStringMatcher

from ext_proc.envoy_config.contract import SIGN_HEADER
from ext_proc.envoy_config.filters import remove_headers
from ext_proc.envoy_config.parts import packed
from ext_proc.envoy_config.settings import UpstreamAccount
from ext_proc.policy.terms import AwsSigning, AwsSource

SERVICE = "bedrock"


def signing_filter(account: UpstreamAccount) -> HttpFilter:
    """Signs whatever is sent to the account."""
    return HttpFilter(name=_name(account), typed_config=packed(_signing(account)))


def chain_signing_filters(accounts: tuple[UpstreamAccount, ...]) -> list[HttpFilter]:
    """For a chain over these accounts: each signs the attempts that are its own, which try has marked."""
    if not accounts:
        return []
    unmark = HeaderMutation(mutations=Mutations(request_mutations=[remove_headers(SIGN_HEADER)]))
    return [
        *(HttpFilter(name=_name(account), typed_config=packed(_on_own_attempts(account))) for account in accounts),
        HttpFilter(name="tollgate.unmark", typed_config=packed(unmark)),
    ]


def _name(account: UpstreamAccount) -> str:
    return f"tollgate.sign.{account.name}"


def _on_own_attempts(account: UpstreamAccount) -> ExtensionWithMatcher:
    header = XdsExtensionConfig(
        name=SIGN_HEADER, typed_config=packed(HttpRequestHeaderMatchInput(header_name=SIGN_HEADER))
    )
    mine = MatcherMatcherListPredicateSinglePredicate(input=header, value_match=XdsStringMatcher(exact=account.name))
    others = MatcherMatcherListPredicate(not_matcher=MatcherMatcherListPredicate(single_predicate=mine))
    skip = MatcherOnMatch(action=XdsExtensionConfig(name="skip", typed_config=packed(SkipFilter())))
    return ExtensionWithMatcher(
        extension_config=TypedExtensionConfig(name=_name(account), typed_config=packed(_signing(account))),
        xds_matcher=Matcher(
            matcher_list=MatcherMatcherList(matchers=[MatcherMatcherListFieldMatcher(predicate=others, on_match=skip)])
        ),
    )


def _signing(account: UpstreamAccount) -> AwsRequestSigning:
    assert account.signing is not None, "only accounts that sign have such a filter"
    return AwsRequestSigning(
        service_name=SERVICE,
        region=account.signing.region,
        # Envoy writes the provider's host into the request at a time of its own, before or after this filter.
        host_rewrite=account.authority,
        credential_provider=_credentials(account.signing),
        # What AWS wants signed. Envoy's own headers come and go until the request is on the wire.
        match_included_headers=[StringMatcher(exact="content-type"), StringMatcher(prefix="x-amz")],
    )


def _credentials(signing: AwsSigning) -> AwsCredentialProvider | None:
    match signing.source:
        case AwsSource.CHAIN:
            return None
        case AwsSource.ENVIRONMENT:
            return AwsCredentialProvider(
                custom_credential_provider_chain=True, environment_credential_provider=EnvironmentCredentialProvider()
            )
        case AwsSource.FILE:
            file = signing.file or ""
            source = DataSource(filename=file, watched_directory=WatchedDirectory(path=str(Path(file).parent)))
            return AwsCredentialProvider(
                custom_credential_provider_chain=True,
                credentials_file_provider=CredentialsFileCredentialProvider(
                    credentials_data_source=source, profile=signing.profile or ""
                ),
            )
