"""TLS options of `tollgate up` that cannot work are refused before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from ext_proc.cli import main
from tests.certificate_kit import Authority


def test_options_that_cannot_work_name_themselves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A missing half, a missing file, a key of another certificate, no certificates: each with option and cure."""
    authority = Authority(tmp_path, "authority")
    certificate, key = authority.server()
    _, other_key = authority.client("other", uri="urn:x")
    pair = ["--tls-cert", str(certificate), "--tls-key", str(key)]
    wrong = {
        "write both, or neither": pair[:2],
        "clients show certificates over TLS": ["--client-ca", str(authority.file)],
        "No such file or directory; write PEM files": ["--tls-cert", "/nowhere.pem", "--tls-key", str(key)],
        "write PEM files that belong together": [*pair[:2], "--tls-key", str(other_key)],
        "--client-ca": [*pair, "--client-ca", str(key)],
    }
    for complaint, options in wrong.items():
        assert main(["up", "--state-dir", str(tmp_path / "state"), *options]) == 2
        assert complaint in capsys.readouterr().err
    assert not (tmp_path / "state").exists()
