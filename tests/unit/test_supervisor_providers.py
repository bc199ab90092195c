"""Where each provider account is sent."""

from __future__ import annotations

from pathlib import Path

import pytest

from ext_proc.policy.snapshot import ProviderAccount
from ext_proc.supervisor.errors import OptionError
from ext_proc.supervisor.options import parse_upstreams
from ext_proc.supervisor.parts import has_credential, has_endpoint_of_its_own
from ext_proc.supervisor.providers import Destination, route

OPENAI = ProviderAccount("openai-main", "openai", "https://api.openai.com", credential_env="OPENAI_API_KEY")
ANTHROPIC = ProviderAccount(
    "anthropic-main", "anthropic", "https://api.anthropic.com", credential_env="ANTHROPIC_API_KEY"
)
SELFHOSTED = ProviderAccount("selfhosted", "openai-compatible", "http://vllm.internal:8000")
ACCOUNTS = {account.name: account for account in (OPENAI, ANTHROPIC, SELFHOSTED)}


@pytest.fixture(autouse=True)
def _no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for account in ACCOUNTS.values():
        if account.credential_env is not None:
            monkeypatch.delenv(account.credential_env, raising=False)


def destinations(upstreams: dict[str, str]) -> dict[str, Destination]:
    routing = route(ACCOUNTS, upstreams, has_credential=has_credential, is_configured=has_endpoint_of_its_own)
    return dict(routing.destinations)


def test_without_anything_public_accounts_are_mocked() -> None:
    """An account that nobody could pay for goes to the mock provider; one with a server of its own does not."""
    assert destinations({}) == {
        "openai-main": Destination.MOCK,
        "anthropic-main": Destination.MOCK,
        "selfhosted": Destination.PROVIDER,
    }


def test_a_key_in_the_environment_means_the_real_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    """A set key sends its own account to the real provider; an empty one is no key."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "")
    found = destinations({})
    assert (found["openai-main"], found["anthropic-main"]) == (Destination.PROVIDER, Destination.MOCK)


def test_a_mounted_key_means_the_real_provider(tmp_path: Path) -> None:
    """A credential file counts when it is there."""
    key = tmp_path / "key"
    account = ProviderAccount("a", "openai", "https://api.openai.com/", credential_file=str(key))
    assert not has_credential(account)
    key.write_text("sk-test")
    assert has_credential(account)


def test_upstream_wins_over_key_and_mock(monkeypatch: pytest.MonkeyPatch) -> None:
    """--upstream replaces an endpoint whatever else is known of the account, and the mock takes only what is left."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    routing = route(
        ACCOUNTS,
        {"openai-main": "http://127.0.0.1:1"},
        has_credential=has_credential,
        is_configured=has_endpoint_of_its_own,
    )
    assert routing.destinations["openai-main"] is Destination.UPSTREAM
    assert routing.with_mock("http://127.0.0.1:2") == {
        "openai-main": "http://127.0.0.1:1",
        "anthropic-main": "http://127.0.0.1:2",
    }


def test_an_upstream_for_no_account_is_refused_with_the_known_ones() -> None:
    """A misspelt account is an error that lists the accounts, not a setting without effect."""
    with pytest.raises(OptionError, match=r"--upstream openai=.*anthropic-main, openai-main, selfhosted"):
        destinations({"openai": "http://127.0.0.1:1"})


@pytest.mark.parametrize("text", ["openai-main", "=http://h", "a=", "a=ftp://h", "a=http://", "a=h:80"])
def test_upstreams_that_cannot_be_meant(text: str) -> None:
    """An option that is not ACCOUNT=URL is refused with an example."""
    with pytest.raises(OptionError, match="expected ACCOUNT=URL, as in"):
        parse_upstreams([text])


def test_upstreams_are_read_once_each() -> None:
    """Several accounts may be named, none of them twice."""
    assert parse_upstreams(["a=http://h:1/", "b=https://h/base=1"]) == {"a": "http://h:1", "b": "https://h/base=1"}
    with pytest.raises(OptionError, match="a is named twice"):
        parse_upstreams(["a=http://h", "a=http://i"])
