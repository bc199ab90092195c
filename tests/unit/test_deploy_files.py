"""What deployments are made of, without a cluster: policies that load, commands that exist, locked containers."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from ext_proc import cli
from ext_proc.envoy_config import EnvoySettings, Limits, Timeouts, WorkerEndpoint
from ext_proc.envoy_config import __main__ as envoy_config
from ext_proc.envoy_config.local_replies import envoy_errors
from ext_proc.policy.loader import load

REPOSITORY = Path(__file__).parents[2]
KUSTOMIZE = REPOSITORY / "deploy" / "kustomize"
KUSTOMIZATIONS = sorted(path.parent for path in KUSTOMIZE.rglob("kustomization.yaml"))


def _pod() -> dict[str, Any]:
    document = yaml.safe_load((KUSTOMIZE / "base" / "deployment.yaml").read_text())
    pod: dict[str, Any] = document["spec"]["template"]["spec"]
    return pod


def _containers() -> dict[str, dict[str, Any]]:
    pod = _pod()
    return {container["name"]: container for container in (*pod["initContainers"], *pod["containers"])}


def _compose() -> dict[str, dict[str, Any]]:
    services: dict[str, dict[str, Any]] = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text())["services"]
    return services


def _accepted(command: list[str]) -> bool:
    """Whether our own parsers take a command. They exit with an error where not."""
    if command[:1] == ["tollgate"]:
        return str(cli._parser(command[1]).parse_args(command[1:]).command) == command[1]
    assert command[:3] == ["python", "-m", "ext_proc.envoy_config"]
    return bool(envoy_config._parser().parse_args(command[3:]))


@pytest.mark.parametrize("directory", sorted(KUSTOMIZE.rglob("policies")), ids=lambda path: path.parent.name)
def test_policies_of_the_examples_load(directory: Path) -> None:
    """Each policy set that is deployed as an example loads, and is all that its ConfigMap holds."""
    kustomization = yaml.safe_load((directory.parent / "kustomization.yaml").read_text())
    mounted = {name for generator in kustomization["configMapGenerator"] for name in generator["files"]}

    assert load(directory).accounts
    assert mounted == {f"policies/{file.name}" for file in directory.iterdir()}


def test_the_image_is_built_from_all_that_is_packaged() -> None:
    """Each package of the wheel, and what is shipped in it, reaches the build: `tollgate tag` needs its client."""
    wheel = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {*wheel["packages"], *wheel["force-include"], "pyproject.toml", "README.md"}
    copied = {
        source
        for line in (REPOSITORY / "Dockerfile").read_text().splitlines()
        if line.startswith("COPY ") and "--from" not in line
        for source in line.split()[1:-1]
    }
    let_in = {line[1:] for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line.startswith("!")}

    assert copied == needed
    assert needed <= let_in


@pytest.mark.parametrize("directory", KUSTOMIZATIONS, ids=lambda path: path.name)
def test_kustomizations_build(directory: Path) -> None:
    """Each kustomization builds, and no label of ours selects the pods of another workload."""
    if shutil.which("kubectl") is None:
        pytest.skip("kustomize is part of kubectl, which is not here")
    built = subprocess.run(
        ["kubectl", "kustomize", str(directory)], capture_output=True, text=True, check=True, timeout=60
    )
    documents = [document for document in yaml.safe_load_all(built.stdout) if document]
    services = {item["metadata"]["name"]: item["spec"]["selector"] for item in documents if item["kind"] == "Service"}
    pods = {
        item["metadata"]["name"]: item["spec"]["template"]["metadata"]["labels"]
        for item in documents
        if item["kind"] in {"Deployment", "StatefulSet"}
    }

    selected = {
        service: {pod for pod, labels in pods.items() if selector.items() <= labels.items()}
        for service, selector in services.items()
    }
    assert selected["tollgate"] == selected["tollgate-admin"] == {"tollgate"}
    assert selected.get("tollgate-redis", {"tollgate-redis"}) == {"tollgate-redis"}


def test_commands_of_the_pod_are_ours() -> None:
    """Every command of a pod is one that the image understands, its hook included."""
    containers = _containers()
    hook = containers["envoy"]["lifecycle"]["preStop"]["exec"]["command"]

    assert _accepted(["tollgate", *containers["sidecar"]["args"]])
    assert _accepted([*containers["envoy-config"]["command"], *containers["envoy-config"]["args"]])
    assert _accepted(hook)


def test_commands_of_compose_are_ours() -> None:
    """Every command of the compose file is one that the image understands."""
    services = _compose()

    for name in ("sidecar", "envoy-config"):
        assert _accepted([*services[name]["entrypoint"], *services[name]["command"]])
    assert _accepted(["tollgate", *services["mock-provider"]["command"]])


@pytest.mark.parametrize("option", ["--workers", "--socket-dir", "--policies"])
def test_envoy_and_sidecar_are_told_the_same(option: str) -> None:
    """What Envoy's configuration is rendered from is what the sidecar runs with."""
    containers = _containers()

    def told(name: str) -> list[str]:
        return [argument for argument in containers[name]["args"] if argument.startswith(f"{option}=")]

    assert told("sidecar") == told("envoy-config")
    assert len(told("sidecar")) == 1


def test_a_drain_fits_into_the_grace_period() -> None:
    """The pod is given longer than its hook may take, and the sidecar stops after Envoy."""
    hook = _containers()["envoy"]["lifecycle"]["preStop"]["exec"]["command"]
    limit = next(int(argument.partition("=")[2]) for argument in hook if argument.startswith("--limit="))

    assert _pod()["terminationGracePeriodSeconds"] >= limit + 30
    assert _containers()["sidecar"]["restartPolicy"] == "Always"


@pytest.mark.parametrize("name", ["envoy-config", "sidecar", "envoy"])
def test_containers_are_locked(name: str) -> None:
    """No container runs as root, gains a privilege, or writes outside its volumes; the keys are the sidecar's alone."""
    container = _containers()[name]
    context = container["securityContext"]

    assert _pod()["securityContext"]["runAsNonRoot"]
    assert _pod()["securityContext"]["runAsUser"] == 65532
    assert context["readOnlyRootFilesystem"]
    assert not context["allowPrivilegeEscalation"]
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert ("envFrom" in container) == (name == "sidecar")
    assert ("env" in container) == (name == "sidecar")


def _rows(heading: str) -> list[list[str]]:
    """The cells of the first table under a heading of the page."""
    section = (REPOSITORY / "docs" / "deploy.md").read_text().split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    return [re.split(r" \| ", line.strip("| ")) for line in section.splitlines() if line.startswith("| `")]


def test_the_page_has_every_limit_with_its_default() -> None:
    """docs/deploy.md lists each limit and timeout, with the default that the code has."""
    defaults: list[tuple[str, Limits | Timeouts]] = [("limits", Limits()), ("timeouts", Timeouts())]
    coded = {f"`{group}.{name}`": str(getattr(values, name)) for group, values in defaults for name in values.__slots__}

    assert {row[0]: row[1] for row in _rows("Limits")} == coded


def test_the_page_has_every_error_of_envoys() -> None:
    """docs/deploy.md lists each code that an error of Envoy's making can have, in the order of recognition."""
    errors = envoy_errors(EnvoySettings(workers=(WorkerEndpoint("w0", "unix:/w0"),), accounts=()))

    assert [row[0] for row in _rows("Errors that Envoy makes")] == [f"`{error.code}`" for error in errors]
