"""The search for planted secrets finds what it is there to find, and no more."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.canary import CLIENT_KEY, ENVIRONMENT, leaks, written
from tests.identity_kit import a_key
from tests.token_kit import Issuer


@pytest.mark.parametrize(
    "secret",
    [CLIENT_KEY, *ENVIRONMENT.values(), a_key("ci"), Issuer("https://idp").token(), "-----BEGIN PRIVATE KEY-----"],
)
def test_a_secret_in_a_file_is_found(tmp_path: Path, secret: str) -> None:
    """Somewhere in a directory, between other bytes: the place is named, the secret is not repeated."""
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "w0.log").write_bytes(b"\xff\x00 before " + secret.encode() + b" after")

    (leak,) = leaks(written(tmp_path))

    assert leak.startswith(str(tmp_path / "logs" / "w0.log"))
    assert secret not in leak


def test_what_may_be_written_is_no_leak() -> None:
    """Ids of keys, hashes, request ids, ordinary text."""
    harmless = b"key tg_ci of ci, hmac-sha256:" + b"a" * 64 + b" req_0123456789abcdef01234567 eyes.only.here"
    assert leaks({"log": harmless}) == []
