"""What cannot be metered: batch APIs, compressed bodies, paths that nobody has allowed."""

from __future__ import annotations

import pytest

from ext_proc.dialects.batch import belongs_to_batch, starts_batch
from ext_proc.exchange.events import RequestHead
from ext_proc.exchange.proposal import Unmetered, understand
from ext_proc.exchange.terms import Terms
from ext_proc.refusal import Refusal
from tests.policy_kit import snapshot

BATCHES = [
    "/v1/batches",
    "/v1/files",
    "/v1/%62atches/",
    "/api/llm/batches?limit=1",
    "/v1/messages/batches",
    "/v1beta/models/gemini-2.5-flash:batchGenerateContent",
    "/upload/v1beta/files",
]


def asked(path: str, settings: str = "", method: str = "POST", **headers: str) -> object:
    """What becomes of a request under a settings document."""
    terms = Terms.of(snapshot(f"name: settings\ntype: gateway-settings\n{settings}"), lease_ms=1_000)
    head = RequestHead(method, path, tuple(headers.items()), now_us=1_767_225_600_000_000)
    return understand(head, b'{"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}', terms)


@pytest.mark.parametrize("path", BATCHES)
@pytest.mark.parametrize("settings", ["", "unmetered_paths: [/v1, /v1beta, /api, /upload]"])
def test_batches_are_refused_unless_policy_allows_them(path: str, settings: str) -> None:
    """Nobody gets past a budget by a batch, not even by a prefix that lets other paths pass; the cure is named."""
    refusal = asked(path, settings)

    assert isinstance(refusal, Refusal)
    assert refusal.status == 403
    assert "batch: allow" in refusal.mitigation
    assert refusal.should_retry is False


@pytest.mark.parametrize("path", [*BATCHES, "/v1/batches/batch_1/cancel"])
def test_batches_pass_where_policy_allows_them(path: str) -> None:
    """`batch: allow` opens the batch APIs, making and reading alike, and nothing else."""
    assert isinstance(asked(path, "batch: allow"), Unmetered)
    assert isinstance(asked(path, "batch: allow", method="GET"), Unmetered)
    assert isinstance(asked("/v1/fine_tuning/jobs", "batch: allow"), Refusal)


def test_reading_a_batch_is_a_path_like_any_other() -> None:
    """To look at files and batches costs nothing: it passes where `unmetered_paths` says so, and only there."""
    assert isinstance(asked("/v1/batches/b", "unmetered_paths: [/v1/batches]", method="GET"), Unmetered)
    refusal = asked("/v1/batches/b", method="GET")

    assert isinstance(refusal, Refusal)
    assert refusal.status == 404


@pytest.mark.parametrize("path", ["/v1/models", "/v1/filesystem", "/v1/messages", "/v1/batcheses", "/v1/x/batches"])
def test_other_paths_are_no_batches(path: str) -> None:
    """Only the providers' own paths are taken for batch APIs."""
    assert not starts_batch("POST", path)
    assert not belongs_to_batch(path)


@pytest.mark.parametrize("encoding", ["gzip", "br", "zstd", "GZIP, br"])
def test_a_compressed_request_is_refused_with_415(encoding: str) -> None:
    """A body that cannot be read is never sent on unmetered; the answer names the encoding and the cure."""
    refusal = asked("/v1/chat/completions", **{"content-encoding": encoding})

    assert isinstance(refusal, Refusal)
    assert refusal.status == 415
    assert encoding.lower() in refusal.message
    assert "uncompressed" in refusal.mitigation
    assert not isinstance(asked("/v1/chat/completions", **{"content-encoding": "identity"}), Refusal)
