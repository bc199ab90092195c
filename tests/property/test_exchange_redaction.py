"""Laws of redaction: a planted secret is never written, wherever it stands and wherever a body is cut."""

from __future__ import annotations

import json
import re

from hypothesis import given
from hypothesis import strategies as st

from ext_proc.exchange.redaction import Redactor
from ext_proc.policy.patterns import compile_pattern

LETTERS = st.text("ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz0123456789", min_size=43, max_size=43)


def shaped(kind: str, letters: str) -> str:
    """A secret of this kind made of these letters."""
    upper = letters.upper()
    return {
        "virtual key": f"tg_ci-{letters[:10].lower()}_{letters}",
        "openai": f"sk-proj-{letters}",
        "google": f"AIza{letters[:35]}",
        "aws": f"AKIA{upper[:16]}",
        "github": f"ghp_{letters[:36]}",
        "slack": f"xoxb-{letters[:20]}",
        "token": f"eyJ{letters[:20]}.eyJ{letters[:20]}.{letters}",
        "private key": f"-----BEGIN RSA PRIVATE KEY-----\n{letters}\n-----END RSA PRIVATE KEY-----",
        "url": f"postgres://app:{letters}@db.internal/x",
        "bearer": f"Bearer {letters}",
        "assigned": f"DB_PASSWORD={letters}",
        "in JSON in a text": json.dumps({"api_key": letters}),
        "configured": f"#{letters}#",
        "known": "a-secret-known-by-heart-" + "z" * 20,
    }[kind]


KINDS = (
    *("virtual key", "openai", "google", "aws", "github", "slack", "token", "private key", "url", "bearer", "assigned"),
    *("in JSON in a text", "configured", "known"),
)
SECRETS = st.builds(shaped, st.sampled_from(KINDS), LETTERS)
BESIDE = st.sampled_from(["", " ", "\n", ", ", '"', "(", ")", "\t", "é ", "\\ ", "😀"])
PROSE = st.text('abc déf\n"\\{}[]:,😀', max_size=200)
REDACTOR = Redactor(patterns=(compile_pattern("#[A-Za-z0-9]+#"),), known=("a-secret-known-by-heart-" + "z" * 20,))


def assert_hidden(secret: str, written: str) -> None:
    """No run of eight of the letters that make it a secret."""
    runs = re.findall(r"[A-Za-z0-9]{16,}|z{16,}", secret)
    assert runs, secret
    for run in runs:
        pieces = {run[at : at + 8] for at in range(len(run) - 7)}
        assert not [piece for piece in pieces if piece in written], written


@given(around=st.tuples(PROSE, BESIDE, PROSE), secret=SECRETS, ascii_only=st.booleans(), data=st.data())
def test_no_cut_of_a_body_shows_a_secret(
    around: tuple[str, str, str], secret: str, ascii_only: bool, data: st.DataObject
) -> None:
    """Escaped or not, in the middle or at the bound, in a whole body or the beginning of one."""
    before, beside, after = around
    value = f"{before} {beside}{secret}{beside or ' '}{after}"
    body = json.dumps({"n": 1, "messages": [{"content": value}, value]}, ensure_ascii=ascii_only).encode()
    max_bytes = data.draw(st.integers(1, len(body) + 50))
    came = data.draw(st.integers(0, len(body)))

    for written in (
        REDACTOR.body(body, max_bytes, whole=True).text,
        REDACTOR.body(body[:came], max_bytes, whole=False).text,
    ):
        assert_hidden(secret, written)
        assert len(written.encode()) <= max_bytes


@given(before=PROSE, after=PROSE, secret=SECRETS, data=st.data())
def test_no_stream_shows_a_secret_however_it_is_told(before: str, after: str, secret: str, data: st.DataObject) -> None:
    """In pieces of any size, over two choices that write at the same time, whole or broken off anywhere."""
    value = f"{before} {secret} {after}"
    events, at = b"", 0
    while at < len(value):
        size = data.draw(st.integers(1, 60))
        piece = value[at : at + size]
        for index in (0, 1):
            event = {"choices": [{"index": index, "delta": {"content": piece}}]}
            events += b"data: " + json.dumps(event).encode() + b"\n\n"
        at += size
    max_bytes = data.draw(st.integers(1, 2 * len(value) + 50))
    came = data.draw(st.integers(0, len(events)))

    assert_hidden(secret, REDACTOR.events(events, max_bytes, whole=True).text)
    assert_hidden(secret, REDACTOR.events(events[:came], max_bytes, whole=False).text)


@given(value=st.text('abcdefgh ijklm\n"\\é😀', max_size=300))
def test_a_text_without_secrets_is_written_as_it_was(value: str) -> None:
    """What is logged is still the request: a body that holds nothing to hide reads the same."""
    body = json.dumps({"messages": [{"role": "user", "content": value}], "n": 2}).encode()

    written = REDACTOR.body(body, len(body) * 2, whole=True)

    assert json.loads(written.text) == json.loads(body)
    assert written.whole
