"""Notification channels: `gateway-notification-config`. Their secrets come from the environment or mounted files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from ext_proc.policy.documents.common import SecretRef, unique
from ext_proc.policy.fields import Located, Problem, optional, required


@dataclass(frozen=True, slots=True, kw_only=True)
class SlackWebhookChannel(Located):
    """A Slack incoming webhook."""

    name: str = required("Names the channel.", example="eng-alerts")
    type: Literal["slack-webhook"] = required("The kind of channel.", example="slack-webhook")
    url: SecretRef = required("Where its URL is.", example="{env: SLACK_WEBHOOK_URL}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SlackBotChannel(Located):
    """A Slack bot."""

    name: str = required("Names the channel.", example="eng-alerts")
    type: Literal["slack-bot"] = required("The kind of channel.", example="slack-bot")
    token: SecretRef = required("Where its token is.", example="{env: SLACK_BOT_TOKEN}")


@dataclass(frozen=True, slots=True, kw_only=True)
class EmailChannel(Located):
    """E-mail over SMTP."""

    name: str = required("Names the channel.", example="mail")
    type: Literal["email"] = required("The kind of channel.", example="email")
    smtp_host: str = required("The mail server.", example="smtp.example.com")
    smtp_port: int = optional("Its port.", default=587, minimum=1, maximum=65_535, example="587")
    sender: str = required("The address mails come from.", example="tollgate@example.com")
    username: str | None = optional("Who logs in.", example="tollgate")
    password: SecretRef | None = optional("Where the password is.", example="{env: SMTP_PASSWORD}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PagerDutyChannel(Located):
    """PagerDuty events."""

    name: str = required("Names the channel.", example="on-call")
    type: Literal["pagerduty"] = required("The kind of channel.", example="pagerduty")
    integration_key: SecretRef = required("Where its key is.", example="{env: PAGERDUTY_KEY}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TeamsWebhookChannel(Located):
    """A Microsoft Teams webhook."""

    name: str = required("Names the channel.", example="teams")
    type: Literal["ms-teams-webhook"] = required("The kind of channel.", example="ms-teams-webhook")
    url: SecretRef = required("Where its URL is.", example="{env: TEAMS_WEBHOOK_URL}")


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookChannel(Located):
    """Any HTTP endpoint."""

    name: str = required("Names the channel.", example="finops")
    type: Literal["webhook"] = required("The kind of channel.", example="webhook")
    url: SecretRef = required("Where its URL is.", example="{env: FINOPS_WEBHOOK_URL}")
    signing_key: SecretRef | None = optional("Where the key that signs bodies is.", example="{env: FINOPS_SIGNING_KEY}")


Channel = SlackWebhookChannel | SlackBotChannel | EmailChannel | PagerDutyChannel | TeamsWebhookChannel | WebhookChannel


@dataclass(frozen=True, slots=True, kw_only=True)
class NotificationDocument(Located):
    """The channels that alerts name."""

    name: str = required("Names the document.", example="notifications")
    type: Literal["gateway-notification-config"] = required(
        "The kind of document.", example="gateway-notification-config"
    )
    channels: tuple[Channel, ...] = required("The channels.", example="[]")

    def problems(self) -> Iterator[Problem]:
        """Names are unique."""
        yield from unique(self.channels, "name")
