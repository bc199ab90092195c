"""Who may not come in, and what a caller may not use: the refusals of identity, and the rules behind them. Pure."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

from ext_proc.identity.caller import Caller
from ext_proc.identity.identities import Wrong
from ext_proc.policy.paths import lies_below
from ext_proc.refusal import Refusal, RefusalType

CONFLICTING: Final = "conflicting_credentials"
NO_KEY: Final = "no_key"
NO_TEAM: Final = "no_team"
NO_PROVIDER_KEY: Final = "no_provider_key"

_ALL_MODELS: Final = "*"
_SEND_KEY: Final = (
    "Send your virtual key as 'authorization: Bearer tg_…' or in x-api-key, api-key or x-goog-api-key: the SDKs do "
    "when it is their API key."
)
_ASK: Final = "Ask the platform team for a new key (tollgate keys create)."

_WRONG: Final = {
    Wrong.MALFORMED: ("The virtual key is not written as keys are: tg_<id>_<secret>.", "Copy the whole key again."),
    Wrong.UNKNOWN: ("The virtual key is not known here.", f"Check that the whole key was copied. {_ASK}"),
    Wrong.REVOKED: ("The virtual key has been revoked.", _ASK),
    Wrong.EXPIRED: ("The virtual key has expired.", _ASK),
    Wrong.NOT_YET: ("The virtual key is not valid yet.", "Use it from the time it was issued for."),
}


def wrong_key(wrong: Wrong) -> Refusal:
    """401: a key that is none, or none any more. What was sent is not repeated."""
    message, cure = _WRONG[wrong]
    return _unauthenticated(wrong.value, message, cure)


def conflicting_credentials() -> Refusal:
    """401: who calls must not depend on which header is read first."""
    message = "The request brings credentials that disagree."
    return _unauthenticated(CONFLICTING, message, "Send one virtual key, in one header, and no other credential.")


def no_key() -> Refusal:
    """401: callers without a key are refused here."""
    return _unauthenticated(NO_KEY, "The request brings no virtual key.", _SEND_KEY)


def no_provider_key(account: str) -> Refusal:
    """401: the account takes the client's own provider key, and there is none."""
    return _unauthenticated(
        NO_PROVIDER_KEY,
        f"The provider account '{account}' is used with your own provider key, and the request brings none.",
        "Send the provider's key where its SDK puts it, and your virtual key, if you have one, in another of "
        "authorization, x-api-key, api-key and x-goog-api-key.",
    )


def no_team() -> Refusal:
    """403: `require_team`."""
    return _not_allowed(
        "The caller belongs to no team, and policy requires one.",
        "Use a key of your team, or ask the platform team to add you to one.",
        {"reason": NO_TEAM},
    )


def identities_unknown() -> Refusal:
    """503: Redis has not told yet who exists, so nobody can be let in or turned away."""
    return Refusal(
        type=RefusalType.STORE_UNAVAILABLE,
        status=HTTPStatus.SERVICE_UNAVAILABLE,
        message="The gateway has not been able to read its virtual keys yet.",
        mitigation="Retry in a few seconds; tell the platform team if it lasts.",
        retry_after_seconds=1,
        should_retry=True,
    )


def path_refusal(caller: Caller, path: str) -> Refusal | None:
    """403 where the caller's key or team may not use this path; a path includes what lies below it."""
    plain = path.partition("?")[0]
    for grant in caller.grants:
        paths = grant.paths
        if paths is not None and not lies_below(plain, paths):
            return _not_allowed(
                f"The {grant.owner} may not use {plain}.",
                f"Use one of: {', '.join(paths)}." if paths else "Ask the platform team for another key.",
                {"path": plain, "by": grant.owner},
            )
    return None


def model_refusal(caller: Caller, requested: str, target: str) -> Refusal | None:
    """403 where the caller's key or team may not use the model, by the name it asked for or the target that stands for.

    `account/*` lets every model of an account.
    """
    names = {requested, target, f"{target.partition('/')[0]}/{_ALL_MODELS}", _ALL_MODELS}
    for grant in caller.grants:
        if grant.models is not None and not names & grant.models:
            allowed = ", ".join(sorted(grant.models))
            return _not_allowed(
                f"The {grant.owner} may not use the model '{requested}'.",
                f"Use one of: {allowed}." if allowed else "Ask the platform team for another key.",
                {"model": requested, "by": grant.owner},
            )
    return None


def _unauthenticated(reason: str, message: str, cure: str) -> Refusal:
    return Refusal(
        type=RefusalType.UNAUTHENTICATED,
        status=HTTPStatus.UNAUTHORIZED,
        message=message,
        mitigation=cure,
        context={"reason": reason},
        should_retry=False,
    )


def _not_allowed(message: str, cure: str, context: dict[str, object]) -> Refusal:
    return Refusal(
        type=RefusalType.NOT_ALLOWED,
        status=HTTPStatus.FORBIDDEN,
        message=message,
        mitigation=cure,
        context=context,
        should_retry=False,
    )
