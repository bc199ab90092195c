"""A directory → snapshot, or every reason why not."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ext_proc.policy.compile import compile_documents
from ext_proc.policy.conflicts import conflicts
from ext_proc.policy.documents import DOCUMENT_TYPES, Document
from ext_proc.policy.errors import PolicyError, PolicySetError
from ext_proc.policy.scalars import Sink, kind_of, nearest, shown
from ext_proc.policy.schema import decode
from ext_proc.policy.snapshot import Snapshot
from ext_proc.policy.yaml_source import (
    SourceDocument,
    SourceFile,
    TextNode,
    content_hash,
    parse_file,
    read_directory,
)


def load(directory: Path | str) -> Snapshot:
    """The snapshot of a policy directory. Raises PolicySetError with every error of the set."""
    return load_files(read(Path(directory)))


def read(directory: Path) -> tuple[SourceFile, ...]:
    """The files of a policy directory. Raises PolicySetError where it cannot be read or holds none."""
    try:
        files = read_directory(directory)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        cure = "name a directory that can be read"
        raise PolicySetError((PolicyError(str(directory), 0, "(set)", f"cannot be read ({reason})", cure),)) from error
    if not files:
        cure = "add a .yaml file, or name another directory"
        raise PolicySetError((PolicyError(str(directory), 0, "(set)", "holds no policy files", cure),))
    return files


def load_files(files: Sequence[SourceFile]) -> Snapshot:
    """The snapshot of files already read. Raises PolicySetError with every error of the set."""
    with _uncollected():
        documents, errors = decode_files(files)
        errors += conflicts(documents)
        if errors:
            raise PolicySetError(tuple(sorted(errors)))
        return compile_documents(documents, content_hash(files))


def decode_files(files: Sequence[SourceFile]) -> tuple[list[Document], list[PolicyError]]:
    """All documents that are right for themselves, and the errors of the others."""
    documents: list[Document] = []
    errors: list[PolicyError] = []
    for file in files:
        sources, file_errors = parse_file(file)
        errors += file_errors
        for source in sources:
            sink = Sink(source.file)
            document = _decode(source, sink)
            if document is not None:
                documents.append(document)
            errors += sink.errors
    return documents, errors


def _decode(source: SourceDocument, sink: Sink) -> Document | None:
    known = tuple(DOCUMENT_TYPES)
    for key, value in source.root.entries:
        if key.text == "type":
            if isinstance(value, TextNode) and value.text in DOCUMENT_TYPES:
                return decode(DOCUMENT_TYPES[value.text], source.root, sink)
            found, guess = (shown(value.text), value.text) if isinstance(value, TextNode) else (kind_of(value), "")
            sink.refuse(value.line, (None, "type"), f"{found} is no document type", nearest(guess, known))
            return None
    sink.refuse(source.root.line, (None, "type"), "is missing", f"use one of: {', '.join(known)}")
    return None


@contextmanager
def _uncollected() -> Iterator[None]:
    """Loading allocates very many small objects, all of which live: collecting in between finds nothing and costs as
    much as the loading itself.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
