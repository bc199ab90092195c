"""Which URL each provider account is sent to: --upstream, the real provider, or the built-in mock provider. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from ext_proc.policy.snapshot import ProviderAccount
from ext_proc.supervisor.errors import OptionError


class Destination(StrEnum):
    """Why an account goes where it goes."""

    UPSTREAM = "upstream"  # --upstream says so
    PROVIDER = "provider"  # its endpoint in the policies, or its credential is at hand
    MOCK = "mock"  # nobody else would answer


@dataclass(frozen=True, slots=True)
class Routing:
    """The decision for every account. `upstreams` are the endpoints that --upstream replaces."""

    destinations: Mapping[str, Destination]
    upstreams: Mapping[str, str]

    @property
    def mocked(self) -> tuple[str, ...]:
        """The accounts that go to the mock provider, sorted."""
        return tuple(sorted(name for name, where in self.destinations.items() if where is Destination.MOCK))

    def with_mock(self, url: str | None) -> dict[str, str]:
        """Every endpoint that is replaced, once the mock provider's URL is known."""
        if url is None:
            assert not self.mocked
            return dict(self.upstreams)
        return {**self.upstreams, **dict.fromkeys(self.mocked, url)}


def route(
    accounts: Mapping[str, ProviderAccount],
    upstreams: Mapping[str, str],
    *,
    has_credential: Callable[[ProviderAccount], bool],
    is_configured: Callable[[ProviderAccount], bool],
) -> Routing:
    """Decide for every account. Raises OptionError where --upstream names none of them."""
    for account in upstreams:
        if account not in accounts:
            known = ", ".join(sorted(accounts))
            raise OptionError(f"--upstream {account}=…: the policies have no such account; they have {known}")

    def destination(account: ProviderAccount) -> Destination:
        if account.name in upstreams:
            return Destination.UPSTREAM
        if has_credential(account) or is_configured(account):
            return Destination.PROVIDER
        return Destination.MOCK

    return Routing({name: destination(account) for name, account in accounts.items()}, dict(upstreams))
