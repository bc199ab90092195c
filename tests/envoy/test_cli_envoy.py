"""`tollgate envoy render`: the configuration of a policy set, as the real binary takes it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from ext_proc.cli import main
from ext_proc.envoy_config.binary import validate
from ext_proc.envoy_config.errors import EnvoyConfigError

pytestmark = pytest.mark.envoy

POLICIES = """
name: providers
type: gateway-provider-config
accounts:
  - {name: here, provider: openai}
  - {name: there, provider: openai-compatible, endpoint: 'http://127.0.0.1:9'}
---
name: routing
type: gateway-load-balancing-config
rules:
  - id: chat
    type: priority-based-routing
    when: {models: [chat]}
    load_balance_targets: [{target: here/gpt-4o}, {target: there/own, priority: 1}]
"""


def test_what_is_rendered_is_what_envoy_loads(tmp_path: Path) -> None:
    """Accounts and both orders of the chain have clusters, and the binary has loaded them before they are written."""
    policies, out = tmp_path / "policies", tmp_path / "envoy.yaml"
    policies.mkdir()
    (policies / "all.yaml").write_text(POLICIES)

    arguments = ["--policies", str(policies), "--socket-dir", str(tmp_path), "--workers", "1", "--out", str(out)]
    assert main(["envoy", "render", *arguments, "--validate"]) == 0

    clusters = yaml.safe_load(out.read_text())["static_resources"]["clusters"]
    chains = [
        [entry["name"] for entry in cluster["cluster_type"]["typed_config"]["clusters"]]
        for cluster in clusters
        if cluster["name"].startswith("tollgate-chain-")
    ]
    assert sorted(chains) == [["here", "there"], ["there", "here"]]
    assert {"here", "there"} <= {cluster["name"] for cluster in clusters}


def test_a_configuration_that_envoy_refuses_is_refused_with_its_words() -> None:
    """Nothing is written that would not start."""
    with pytest.raises(EnvoyConfigError, match=r"Envoy refuses this configuration: .*nonsense"):
        validate("nonsense: true\n")


def test_what_cannot_be_rendered_is_one_line_and_status_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A typing mistake in an account's name says which accounts there are."""
    arguments = [
        "--policies",
        "policies",
        "--socket-dir",
        str(tmp_path),
        "--workers",
        "1",
        "--upstream",
        "opnai=http://x",
    ]
    assert main(["envoy", "render", *arguments]) == 1
    assert capsys.readouterr().err.startswith(
        "tollgate: --upstream opnai: the policies have no such account; they have "
    )
