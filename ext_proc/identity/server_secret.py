"""The server secret that virtual keys are hashed with: from the environment, a mounted file, or the state directory."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from ext_proc.identity.errors import ServerSecretError

VARIABLE: Final = "TOLLGATE_KEY_SECRET"
FILE_VARIABLE: Final = "TOLLGATE_KEY_SECRET_FILE"
FILE_NAME: Final = "key-secret"
MIN_BYTES: Final = 16


def configured_secret(environment: Mapping[str, str] = os.environ) -> bytes | None:
    """The secret that the environment names, None where it names none. Raises ServerSecretError for a useless one."""
    text = environment.get(VARIABLE)
    where = VARIABLE
    if not text:
        path = environment.get(FILE_VARIABLE)
        if not path:
            return None
        where = f"{FILE_VARIABLE} ({path})"
        text = _read(Path(path), where)
    return _checked(text, where)


def server_secret(state_dir: Path, environment: Mapping[str, str] = os.environ) -> bytes:
    """The secret of this gateway. Where nothing is configured it is made once and kept in the state directory: good for
    one machine; several replicas on one Redis must be given the same one. Raises ServerSecretError.
    """
    configured = configured_secret(environment)
    if configured is not None:
        return configured
    path = state_dir / FILE_NAME
    try:
        _make_once(path)
    except OSError as error:
        raise ServerSecretError(f"{path} cannot be written: {error.strerror}", f"set {VARIABLE}") from error
    return _checked(_read(path, str(path)), str(path))


def _make_once(path: Path) -> None:
    """Processes that start together agree: the file appears whole, under the first one's content."""
    if path.exists():
        return
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    own = path.with_name(f"{path.name}.{os.getpid()}")
    descriptor = os.open(own, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(32))
        with contextlib.suppress(FileExistsError):
            os.link(own, path)
    finally:
        own.unlink()


def _read(path: Path, where: str) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ServerSecretError(f"{where} cannot be read: {error}", "name a readable text file") from error


def _checked(text: str, where: str) -> bytes:
    secret = text.strip().encode()
    if len(secret) < MIN_BYTES:
        raise ServerSecretError(f"{where} is shorter than {MIN_BYTES} bytes", "use the output of: openssl rand -hex 32")
    return secret
