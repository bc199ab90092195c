"""What Envoy accepts: every checked-in configuration, every form of settings, and TLS to a provider."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from ext_proc.envoy_config import (
    Chain,
    EnvoySettings,
    Limits,
    TokenIssuer,
    UpstreamAccount,
    WorkerEndpoint,
    find_ca_bundle,
    find_envoy,
    render,
)
from ext_proc.envoy_config.settings import CA_BUNDLES
from ext_proc.policy.terms import AwsSigning, AwsSource
from ext_proc.server.settings import Metering
from tests.envoy_kit import Stack

pytestmark = pytest.mark.envoy

REPOSITORY = Path(__file__).parents[2]
SETTINGS = EnvoySettings(
    workers=(WorkerEndpoint("w0", "127.0.0.1:9002"),),
    accounts=(UpstreamAccount("six", "https://[2001:db8::1]:8443"), UpstreamAccount("plain", "http://models.internal")),
    ca_bundle=find_ca_bundle(),
)

AWS = UpstreamAccount(
    "aws", "https://bedrock-runtime.eu-west-1.amazonaws.com", AwsSigning("eu-west-1", AwsSource.CHAIN)
)


def _warnings(configuration: str, directory: Path) -> str:
    """What Envoy has to say about a configuration; fails where it refuses it."""
    file = directory / "envoy.yaml"
    # The bundle of this machine: the configuration is accepted elsewhere too, where its own path exists.
    file.write_text(configuration.replace(CA_BUNDLES[0], find_ca_bundle()))
    command = [str(find_envoy()), "--mode", "validate", "--config-path", str(file), "--log-level", "warning"]
    outcome = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert outcome.returncode == 0, outcome.stderr
    return outcome.stderr


@pytest.mark.parametrize("file", sorted((REPOSITORY / "envoy").glob("*.yaml")), ids=lambda file: file.name)
def test_checked_in_configuration_is_accepted(file: Path, tmp_path: Path) -> None:
    """The real Envoy loads every checked-in configuration, without a warning about anything deprecated."""
    assert _warnings(file.read_text(), tmp_path) == ""


@pytest.mark.parametrize(
    "settings",
    [
        SETTINGS,
        replace(SETTINGS, accounts=()),
        replace(SETTINGS, admin="127.0.0.1:9901"),
        replace(SETTINGS, listen_host="::", listen_port=0),
        replace(SETTINGS, limits=Limits(heap_bytes=1 << 30)),
        replace(SETTINGS, accounts=(AWS,), chains=(Chain("twice", ("aws", "aws")),)),
        replace(SETTINGS, token_issuers=(TokenIssuer("https://idp", ("llm",), jwks_uri="https://idp:8443/jwks"),)),
    ],
    ids=["one worker over TCP", "no account", "admin on a port", "any address", "bounded heap", "AWS", "tokens"],
)
def test_every_form_of_settings_is_accepted(settings: EnvoySettings, tmp_path: Path) -> None:
    """The real Envoy loads what any valid settings render to, without a warning."""
    assert _warnings(render(settings), tmp_path) == ""


def test_native_metering_is_accepted(tmp_path: Path) -> None:
    """The real Envoy loads its own parsers; all it says is that some are work in progress upstream."""
    said = _warnings(render(replace(SETTINGS, metering=Metering.NATIVE)), tmp_path).splitlines()

    assert said
    assert all("marked as work-in-progress" in line for line in said)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a certificate that signs itself, for the name `localhost` only, and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("makes a certificate with the openssl command")
    directory = tmp_path_factory.mktemp("authority")
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-keyout", "key.pem", "-out", "certificate.pem", "-days", "2", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=DNS:localhost"),
        ],
        cwd=directory,
        check=True,
        capture_output=True,
        timeout=60,
    )
    return directory


def _provider_context(authority: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(authority / "certificate.pem", authority / "key.pem")
    return context


def test_a_provider_is_reached_over_tls(authority: Path) -> None:
    """An https account whose certificate is its name's, by an authority of the bundle, is spoken to."""
    with Stack(provider_tls=_provider_context(authority), ca_bundle=str(authority / "certificate.pem")) as stack:
        answer = stack.post("tls", script={"account": "named"})

    assert answer.json() == {"from": "provider"}
    assert stack.observed.request("tls").headers["host"] == f"localhost:{stack.provider.port}"


@pytest.mark.parametrize(("account", "known"), [("named", False), ("plain", True)], ids=["authority", "name"])
def test_a_provider_with_a_wrong_certificate_gets_nothing(authority: Path, account: str, known: bool) -> None:
    """A provider whose certificate is by an unknown authority, or another name's, is not sent one byte of a request."""
    bundle = str(authority / "certificate.pem") if known else find_ca_bundle()
    with Stack(provider_tls=_provider_context(authority), ca_bundle=bundle) as stack:
        answer = stack.post("impostor", script={"account": account})

    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "provider_unavailable"
    assert "CERTIFICATE_VERIFY_FAILED" in answer.json()["context"]["reason"]
    assert stack.observed.forwarded.all() == []
