"""Refusals of requests as they are, before any budget is asked: each names what is wrong and the cure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from http import HTTPStatus

from ext_proc.exchange.events import RequestHead
from ext_proc.policy.snapshot import InvalidTag, TagFinding
from ext_proc.refusal import Refusal, RefusalType


def with_the_rest(refusals: list[Refusal]) -> Refusal:
    """One answer: the first refusal, which names the rules of the others."""
    first, *rest = refusals
    return replace(first, context={**first.context, "also_exceeded": [refusal.rule for refusal in rest]})


def of_every_target(refusal: Refusal, model: str) -> Refusal:
    """The refusal of one target, where it is every target's of a virtual model."""
    return replace(refusal, message=f"No target of '{model}' may serve the request. {refusal.message}")


def unknown_path(head: RequestHead) -> Refusal:
    """The path is not understood."""
    path = head.path.partition("?")[0]
    return Refusal(
        type=RefusalType.UNKNOWN_PATH,
        status=HTTPStatus.NOT_FOUND,
        message=f"{head.method} {path} is not an endpoint this gateway meters, and policy does not let it pass.",
        mitigation="Use a supported endpoint, such as POST /v1/chat/completions or POST /v1/messages, or have the "
        "platform team add the path to `unmetered_paths` in the gateway-settings document.",
        context={"path": path},
    )


def batch(head: RequestHead) -> Refusal:
    """A batch is handed in, and policy does not let it pass."""
    path = head.path.partition("?")[0]
    return Refusal(
        type=RefusalType.NOT_ALLOWED,
        status=HTTPStatus.FORBIDDEN,
        message=f"{head.method} {path} belongs to a batch API: what it will cost can be neither held nor charged here.",
        mitigation="Use OpenAI's /v1/files and /v1/batches or Anthropic's /v1/messages/batches where batches are held, "
        "send the requests one by one, or have the platform team set `batch: allow` in the gateway-settings document; "
        "batches then pass outside every budget.",
        context={"path": path},
        should_retry=False,
    )


def batch_invalid(place: str, problem: str) -> Refusal:
    """A batch is not what it must be to be held."""
    message = f"This batch cannot be admitted: {place}: {problem}."
    return invalid(RefusalType.INVALID_REQUEST, message, "Correct the batch and hand it in again.")


def batch_unknown_file(file_id: str, cure: str) -> Refusal:
    """A batch names a file that has not passed here, so that nobody knows what it will cost."""
    return Refusal(
        type=RefusalType.NOT_ALLOWED,
        status=HTTPStatus.FORBIDDEN,
        message=f"What the batch of file '{file_id[:64]}' will cost is not known: the file did not pass this gateway.",
        mitigation=f"To have it held against your budgets, {cure}; or have the platform team set `batch: allow` in the "
        "gateway-settings document, and batches pass outside every budget.",
        context={"input_file_id": file_id[:128]},
        should_retry=False,
    )


def batch_unbounded() -> Refusal:
    """A rule bounds every request, and those of a batch cannot be changed."""
    return Refusal(
        type=RefusalType.NOT_ALLOWED,
        status=HTTPStatus.BAD_REQUEST,
        message="A strict budget or an output guardrail decides this batch, and it has requests without an output "
        "limit, or with content outside their bodies (images, files), which cannot be bounded.",
        mitigation="Give every request an output limit (max_tokens, max_completion_tokens or max_output_tokens), and "
        "inline its content as text.",
        should_retry=False,
    )


def encoded(encoding: str) -> Refusal:
    """The body is compressed."""
    return Refusal(
        type=RefusalType.INVALID_REQUEST,
        status=HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        message=f"The request body is sent with content-encoding '{encoding[:64]}', which this gateway does not read.",
        mitigation="Send the body uncompressed.",
        should_retry=False,
    )


def invalid(refusal_type: RefusalType, message: str, cure: str) -> Refusal:
    """The tags or the body cannot be read."""
    return Refusal(refusal_type, HTTPStatus.BAD_REQUEST, message, cure, should_retry=False)


def unknown_model(model: str, why: str, accounts: Iterable[str]) -> Refusal:
    """No account serves the model."""
    return Refusal(
        type=RefusalType.UNKNOWN_MODEL,
        status=HTTPStatus.NOT_FOUND,
        message=f"Model '{model}' cannot be served: {why}.",
        mitigation="Check the name for a typing mistake, or have the platform team declare the model and its price in "
        f"the gateway-provider-config document. Accounts: {', '.join(sorted(accounts))}.",
        context={"model": model},
        should_retry=False,
    )


def unpriced(model: str) -> Refusal:
    """The model has no price, and policy wants one."""
    return Refusal(
        type=RefusalType.UNPRICED_MODEL,
        status=HTTPStatus.FORBIDDEN,
        message=f"Model '{model}' has no known price, and policy refuses unpriced models.",
        mitigation="Use a priced model, or have the platform team price it in the gateway-provider-config document.",
        context={"model": model},
        should_retry=False,
    )


def not_tagged(findings: Sequence[TagFinding], header: str) -> Refusal:
    """Required tags are missing."""
    missing = list(dict.fromkeys(tag for finding in findings for tag in finding.missing))
    example = json.dumps(dict.fromkeys(missing, "…"), ensure_ascii=False)
    return Refusal(
        type=RefusalType.NOT_TAGGED,
        status=HTTPStatus.BAD_REQUEST,
        message=f"The request lacks the required tag{'s' if len(missing) > 1 else ''} {', '.join(missing)}.",
        mitigation=f"Send the header {header}: {example}",
        context={"rule": findings[0].rule_id, "missing": missing},
        should_retry=False,
    )


def invalid_tags(invalid: Sequence[InvalidTag]) -> Refusal:
    """Tags have values that the glossary does not allow."""
    return Refusal(
        type=RefusalType.INVALID_METADATA,
        status=HTTPStatus.BAD_REQUEST,
        message=" ".join(tag.problem for tag in invalid),
        mitigation=" ".join(tag.cure for tag in invalid),
        context={"tags": [tag.tag for tag in invalid]},
        should_retry=False,
    )


def unbounded() -> Refusal:
    """Strict admission met content that no bound covers."""
    return Refusal(
        type=RefusalType.NOT_ALLOWED,
        status=HTTPStatus.BAD_REQUEST,
        message="A budget with strict admission decides this request, and its content outside the body (images, "
        "files, stored prompts) cannot be bounded because the model's context window is unknown.",
        mitigation="Inline the content as text, or use a model whose context window is known.",
        should_retry=False,
    )
