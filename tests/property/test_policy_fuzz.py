"""Loading never crashes: whatever the bytes, the answer is a snapshot or a list of errors that say where and how."""

from __future__ import annotations

import json
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from ext_proc.policy.documents import DOCUMENT_TYPES
from ext_proc.policy.errors import PolicyError, PolicySetError
from ext_proc.policy.lint import lint
from ext_proc.policy.loader import load_files
from ext_proc.policy.schema import model_fields, models_in
from ext_proc.policy.yaml_source import SourceFile

CORPUS = [
    path.read_bytes()
    for folder in ("tests/corpus/broken_policies", "policies")
    for path in sorted((Path(__file__).parents[2] / folder).glob("*.yaml"))
]


def _words() -> set[str]:
    """Every field name that occurs in any document type, and every word its fields know."""
    words = set(DOCUMENT_TYPES)
    for document in DOCUMENT_TYPES.values():
        for model in models_in(document):
            for name, (_, _, spec) in model_fields(model).items():
                words.update({name, *spec.one_of})
    return words


WORDS = sorted(_words())
SCALARS = st.one_of(
    st.sampled_from(WORDS),
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["*", "user:a", "a/b", "metadata.a", "{metadata.a}", "1e400", "-0", "0x1F", "1_000", "1:30"]),
)
TREES = st.recursive(
    SCALARS,
    lambda node: st.lists(node, max_size=4) | st.dictionaries(st.sampled_from(WORDS) | st.text(max_size=4), node),
    max_leaves=30,
)
DOCUMENTS = st.builds(
    lambda kind, rest: {**rest, "name": "fuzz", "type": kind},
    st.sampled_from(sorted(DOCUMENT_TYPES)),
    st.dictionaries(st.sampled_from(WORDS), TREES, max_size=6),
)


def errors_of(content: bytes) -> tuple[PolicyError, ...]:
    """Load and lint; the errors of a set that is refused, none of one that loads."""
    try:
        lint(load_files([SourceFile("fuzz.yaml", content)]))
    except PolicySetError as refused:
        return refused.errors or (PolicyError("", 0, "", "", ""),)
    return ()


def load_or_explain(content: bytes) -> None:
    """Load; where that is refused every error has a place, a problem and a cure, in one line."""
    for error in errors_of(content):
        assert error.line >= 1
        assert error.field
        assert error.problem
        assert error.cure
        assert "\n" not in str(error)


@given(st.binary(max_size=200))
def test_any_bytes(content: bytes) -> None:
    """Bytes that are no YAML at all."""
    load_or_explain(content)


@given(st.lists(DOCUMENTS, min_size=1, max_size=3))
def test_any_tree_of_known_words(documents: list[dict[str, object]]) -> None:
    """Well-formed documents whose fields hold the wrong things."""
    load_or_explain("\n---\n".join(json.dumps(document) for document in documents).encode())


@given(st.sampled_from(CORPUS), st.data())
def test_any_damage_to_a_real_document(content: bytes, data: st.DataObject) -> None:
    """Documents that lost, gained or swapped a piece."""
    start = data.draw(st.integers(0, len(content)))
    end = data.draw(st.integers(start, min(len(content), start + 40)))
    piece = data.draw(st.binary(max_size=6) | st.sampled_from(CORPUS).map(lambda other: other[-60:]))

    load_or_explain(content[:start] + piece + content[end:])
