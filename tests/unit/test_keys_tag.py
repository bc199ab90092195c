"""Tags of CI systems: `tollgate tag` and `tollgate_client` say who pays from the variables each system sets."""

from __future__ import annotations

import json

import pytest

import tollgate_client
from ext_proc.cli import main
from ext_proc.identity.tags import parse_tags
from tollgate_client.tags import header_value, headers, merged_tags

SYSTEMS = {
    "github-actions": {
        "GITHUB_ACTIONS": "true",
        "GITHUB_REPOSITORY": "acme/ranker",
        "GITHUB_WORKFLOW": "review",
        "GITHUB_JOB": "summarise",
        "GITHUB_RUN_ID": "77",
        "GITHUB_RUN_ATTEMPT": "2",
        "GITHUB_REF_NAME": "main",
        "GITHUB_ACTOR": "ada",
    },
    "gitlab": {
        "GITLAB_CI": "true",
        "CI_PROJECT_PATH": "acme/ranker",
        "CI_PIPELINE_SOURCE": "review",
        "CI_JOB_NAME": "summarise",
        "CI_PIPELINE_ID": "77",
        "CI_COMMIT_REF_NAME": "main",
        "GITLAB_USER_LOGIN": "ada",
    },
    "jenkins": {
        "JENKINS_URL": "https://ci.example.com/",
        "GIT_URL": "https://bot:secret@git.example.com/acme/ranker.git",
        "JOB_NAME": "review",
        "STAGE_NAME": "summarise",
        "BUILD_NUMBER": "77",
        "BRANCH_NAME": "main",
        "BUILD_USER_ID": "ada",
    },
    "buildkite": {
        "BUILDKITE": "true",
        "BUILDKITE_REPO": "git@github.com:acme/ranker.git",
        "BUILDKITE_PIPELINE_SLUG": "review",
        "BUILDKITE_STEP_KEY": "summarise",
        "BUILDKITE_BUILD_ID": "77-2",
        "BUILDKITE_BUILD_NUMBER": "77",
        "BUILDKITE_BRANCH": "main",
        "BUILDKITE_BUILD_CREATOR": "ada",
    },
    "circleci": {
        "CIRCLECI": "true",
        "CIRCLE_PROJECT_USERNAME": "acme",
        "CIRCLE_PROJECT_REPONAME": "ranker",
        "CIRCLE_JOB": "summarise",
        "CIRCLE_BUILD_NUM": "77",
        "CIRCLE_WORKFLOW_ID": "aa-bb",
        "CIRCLE_BRANCH": "main",
        "CIRCLE_USERNAME": "ada",
    },
    "azure-pipelines": {
        "TF_BUILD": "True",
        "BUILD_REPOSITORY_NAME": "acme/ranker",
        "BUILD_DEFINITIONNAME": "review",
        "SYSTEM_JOBDISPLAYNAME": "summarise",
        "BUILD_BUILDID": "77",
        "BUILD_SOURCEBRANCHNAME": "main",
        "BUILD_REQUESTEDFOREMAIL": "ada",
    },
}
WORKFLOWS = {
    "github-actions": "github-77-2",
    "gitlab": "gitlab-77",
    "jenkins": "jenkins-review-77",
    "buildkite": "buildkite-77-2",
    "circleci": "circleci-aa-bb",
    "azure-pipelines": "azure-77-1",
}


@pytest.mark.parametrize("system", SYSTEMS)
def test_each_ci_system_says_what_runs(system: str) -> None:
    """Repository, pipeline, step, run, branch, person; and one workflow id for all steps of one attempt."""
    expected = {"repo": "acme/ranker", "agent_step": "summarise", "run_id": "77", "branch": "main", "user": "ada"}
    pipeline = {} if system == "circleci" else {"pipeline": "review"}  # it sets no variable with the workflow's name

    assert merged_tags(SYSTEMS[system], {}) == {
        **expected,
        **pipeline,
        "workflow_id": WORKFLOWS[system],
        "ci": system,
    }


def test_no_ci_system_gives_no_tags() -> None:
    """Outside of CI nothing is made up; an empty variable is none."""
    assert merged_tags({"GITHUB_ACTIONS": "", "GITHUB_REPOSITORY": "a/b"}, {}) == {}


def test_what_is_said_wins_over_what_is_found() -> None:
    """CI system < TOLLGATE_TAGS < the caller; None takes a tag away."""
    environment = {**SYSTEMS["gitlab"], "TOLLGATE_TAGS": "cost_center=search, repo=other"}

    found = merged_tags(environment, {"repo": "mine", "branch": None})

    assert (found["cost_center"], found["repo"], found["pipeline"]) == ("search", "mine", "review")
    assert "branch" not in found
    assert merged_tags({"TOLLGATE_TAGS": '{"a": "b, c=d"}'}, {}) == {"a": "b, c=d"}


@pytest.mark.parametrize("text", ["search", "a=b,c", '{"a": 1}', '{"a"'])
def test_unreadable_tags_are_an_error(text: str) -> None:
    """A misspelt variable must not become an untagged request."""
    with pytest.raises(ValueError, match=r"TOLLGATE_TAGS|JSON|delimiter"):
        merged_tags({"TOLLGATE_TAGS": text}, {})


def test_the_gateway_accepts_whatever_the_header_holds() -> None:
    """Long names are cut, control characters become blanks, other languages travel as ASCII."""
    found = merged_tags({}, {"branch": "größe/" + "x" * 300, "pipeline": "a\nb"})
    value = header_value(found)

    assert value.isascii()
    assert parse_tags("x-tfy-metadata", [value]) == {"branch": "größe/" + "x" * 122, "pipeline": "a b"}


def test_a_process_is_one_workflow() -> None:
    """Two requests of one process carry the same run and workflow, unless a workflow is named."""
    first, second = (json.loads(headers(cost_center="search")["x-tfy-metadata"]) for _ in range(2))

    assert first == second
    assert first["run_id"]
    assert first["workflow_id"]
    assert json.loads(headers(workflow_id="w")["x-tfy-metadata"])["workflow_id"] == "w"


def test_the_command_prints_a_header_for_curl(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`tollgate tag` prints name and value, or the value alone."""
    for name, value in SYSTEMS["github-actions"].items():
        monkeypatch.setenv(name, value)

    assert main(["tag", "--tag", "cost_center=search"]) == 0
    name, _, value = capsys.readouterr().out.strip().partition(": ")
    assert (name, json.loads(value)["cost_center"], json.loads(value)["repo"]) == (
        "x-tfy-metadata",
        "search",
        "acme/ranker",
    )
    assert main(["tag", "--value", "--tag", "repo=mine"]) == 0
    assert json.loads(capsys.readouterr().out)["repo"] == "mine"
    assert main(["tag", "--tag", "oops"]) == 2


@pytest.mark.parametrize("name", ["OpenAI", "AsyncOpenAI", "Anthropic", "AsyncAnthropic"])
def test_the_client_classes_are_the_sdks_with_tags(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where to call and the key come from the environment; every request carries the tags, and headers of one's own."""
    monkeypatch.setenv("TOLLGATE_URL", "http://gateway:10000/")
    monkeypatch.setenv("TOLLGATE_KEY", "tg_k")
    client = getattr(tollgate_client, name)(tags={"cost_center": "search"}, default_headers={"x-own": "1"})

    assert str(client.base_url) == ("http://gateway:10000/v1/" if "OpenAI" in name else "http://gateway:10000")
    assert client.api_key == "tg_k"
    assert json.loads(client.default_headers["x-tfy-metadata"])["cost_center"] == "search"
    assert client.default_headers["x-own"] == "1"
    with pytest.raises(AttributeError):
        _ = tollgate_client.Gemini
