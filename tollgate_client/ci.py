"""Which CI system a process runs in, and what its variables say: repository, pipeline, step, run, person. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping

Environment = Mapping[str, str]

NAMES = ("repo", "pipeline", "agent_step", "run_id", "workflow_id", "branch", "user", "ci")
"""The tags a CI system fills. `workflow_id` is one attempt of one run: what a budget per workflow is about."""


def ci_tags(environment: Environment) -> dict[str, str]:
    """The tags that the CI system's own variables give; none where no known one runs."""
    for name, marker, read in _SYSTEMS:
        if environment.get(marker):
            found = {"ci": name, **read(environment)}
            return {tag: value for tag in NAMES if (value := found.get(tag, ""))}
    return {}


def _github(env: Environment) -> dict[str, str]:
    run, attempt = env.get("GITHUB_RUN_ID", ""), env.get("GITHUB_RUN_ATTEMPT", "1")
    return {
        "repo": env.get("GITHUB_REPOSITORY", ""),
        "pipeline": env.get("GITHUB_WORKFLOW", ""),
        "agent_step": env.get("GITHUB_JOB", ""),
        "run_id": run,
        "workflow_id": f"github-{run}-{attempt}" if run else "",
        "branch": env.get("GITHUB_HEAD_REF") or env.get("GITHUB_REF_NAME", ""),
        "user": env.get("GITHUB_TRIGGERING_ACTOR") or env.get("GITHUB_ACTOR", ""),
    }


def _gitlab(env: Environment) -> dict[str, str]:
    run = env.get("CI_PIPELINE_ID", "")
    return {
        "repo": env.get("CI_PROJECT_PATH", ""),
        "pipeline": env.get("CI_PIPELINE_NAME") or env.get("CI_PIPELINE_SOURCE", ""),
        "agent_step": env.get("CI_JOB_NAME", ""),
        "run_id": run,
        "workflow_id": f"gitlab-{run}" if run else "",
        "branch": env.get("CI_MERGE_REQUEST_SOURCE_BRANCH_NAME") or env.get("CI_COMMIT_REF_NAME", ""),
        "user": env.get("GITLAB_USER_LOGIN", ""),
    }


def _jenkins(env: Environment) -> dict[str, str]:
    job, number = env.get("JOB_NAME", ""), env.get("BUILD_NUMBER", "")
    return {
        "repo": _repository(env.get("GIT_URL", "")),
        "pipeline": job,
        "agent_step": env.get("STAGE_NAME", ""),
        "run_id": number,
        "workflow_id": f"jenkins-{job}-{number}" if job and number else "",
        "branch": env.get("CHANGE_BRANCH") or env.get("BRANCH_NAME") or env.get("GIT_BRANCH", ""),
        "user": env.get("BUILD_USER_ID") or env.get("CHANGE_AUTHOR", ""),
    }


def _buildkite(env: Environment) -> dict[str, str]:
    build = env.get("BUILDKITE_BUILD_ID", "")
    return {
        "repo": _repository(env.get("BUILDKITE_REPO", "")),
        "pipeline": env.get("BUILDKITE_PIPELINE_SLUG", ""),
        "agent_step": env.get("BUILDKITE_STEP_KEY") or env.get("BUILDKITE_LABEL", ""),
        "run_id": env.get("BUILDKITE_BUILD_NUMBER", ""),
        "workflow_id": f"buildkite-{build}" if build else "",
        "branch": env.get("BUILDKITE_BRANCH", ""),
        "user": env.get("BUILDKITE_BUILD_CREATOR", ""),
    }


def _circleci(env: Environment) -> dict[str, str]:
    owner, repo = env.get("CIRCLE_PROJECT_USERNAME", ""), env.get("CIRCLE_PROJECT_REPONAME", "")
    workflow = env.get("CIRCLE_WORKFLOW_ID", "")
    return {
        "repo": f"{owner}/{repo}" if owner and repo else repo,
        "agent_step": env.get("CIRCLE_JOB", ""),
        "run_id": env.get("CIRCLE_BUILD_NUM", ""),
        "workflow_id": f"circleci-{workflow}" if workflow else "",
        "branch": env.get("CIRCLE_BRANCH", ""),
        "user": env.get("CIRCLE_USERNAME", ""),
    }


def _azure(env: Environment) -> dict[str, str]:
    run, attempt = env.get("BUILD_BUILDID", ""), env.get("SYSTEM_JOBATTEMPT", "1")
    return {
        "repo": env.get("BUILD_REPOSITORY_NAME", ""),
        "pipeline": env.get("BUILD_DEFINITIONNAME", ""),
        "agent_step": env.get("SYSTEM_JOBDISPLAYNAME") or env.get("SYSTEM_JOBNAME", ""),
        "run_id": run,
        "workflow_id": f"azure-{run}-{attempt}" if run else "",
        "branch": env.get("SYSTEM_PULLREQUEST_SOURCEBRANCH") or env.get("BUILD_SOURCEBRANCHNAME", ""),
        "user": env.get("BUILD_REQUESTEDFOREMAIL") or env.get("BUILD_REQUESTEDFOR", ""),
    }


def _repository(url: str) -> str:
    """`owner/name` of a clone URL, whose user and password stay out of it."""
    path = url.split("://", 1)[-1].rpartition("@")[2].removesuffix(".git").replace(":", "/")
    return "/".join(path.split("/")[1:]) if "/" in path else path


_SYSTEMS: tuple[tuple[str, str, Callable[[Environment], dict[str, str]]], ...] = (
    ("github-actions", "GITHUB_ACTIONS", _github),
    ("gitlab", "GITLAB_CI", _gitlab),
    ("buildkite", "BUILDKITE", _buildkite),
    ("circleci", "CIRCLECI", _circleci),
    ("azure-pipelines", "TF_BUILD", _azure),
    ("jenkins", "JENKINS_URL", _jenkins),
)
