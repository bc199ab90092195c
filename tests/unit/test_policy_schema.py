"""JSON Schema and reference page: written from the models that decode, and right."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from ext_proc.policy.documents import DOCUMENT_TYPES
from ext_proc.policy.fields import Spec
from ext_proc.policy.json_schema import document_schema, set_schema
from ext_proc.policy.reference import reference
from ext_proc.policy.scalars import Sink
from ext_proc.policy.schema import decoder, model_fields, models_in
from ext_proc.policy.yaml_source import SourceFile, parse_file

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "policy-reference.md"


EVERY_MODEL = sorted({m for document in DOCUMENT_TYPES.values() for m in models_in(document)}, key=lambda m: m.__name__)
EVERY_FIELD = [
    pytest.param(hint, spec, id=f"{model.__name__}.{name}")
    for model in EVERY_MODEL
    for name, (_, hint, spec) in model_fields(model).items()
]


@pytest.mark.parametrize(("hint", "spec"), EVERY_FIELD)
def test_every_field_has_a_text_and_an_example_that_loads(hint: object, spec: Spec) -> None:
    """What the reference shows can be pasted."""
    assert spec.doc.endswith((".", "?"))
    assert spec.example
    (document,), errors = parse_file(SourceFile("example", f"value: {spec.example}".encode()))
    assert errors == ()
    sink = Sink("example")

    decoder(hint, spec)(document.root.entries[0][1], None, sink)

    assert sink.errors == []


def test_model_names_are_unique() -> None:
    """Definitions are told apart by the model's name."""
    names = [model.__name__ for model in EVERY_MODEL]

    assert len(set(names)) == len(names)


@pytest.mark.parametrize("document_type", sorted(DOCUMENT_TYPES))
def test_each_schema_is_a_valid_schema(document_type: str) -> None:
    """Editors and CI can use it."""
    jsonschema.Draft202012Validator.check_schema(document_schema(document_type))


def shipped() -> list[Any]:
    """The documents that ship, as an editor reads them."""
    texts = [path.read_text() for path in sorted((ROOT / "policies").glob("*.yaml"))]
    return [document for text in texts for document in yaml.safe_load_all(text) if document is not None]


@pytest.mark.parametrize("document", shipped(), ids=lambda document: document["name"])
def test_the_documents_that_ship_fit_the_schema(document: dict[str, object]) -> None:
    """The schema accepts what loads."""
    jsonschema.validate(document, set_schema())
    jsonschema.validate(document, document_schema(str(document["type"])))


@pytest.mark.parametrize(
    "name",
    [
        "field-misspelt",
        "unit-unknown",
        "rule-without-when",
        "thresholds-hold-text",
        "audit-mode-is-a-word",
        "type-unknown",
    ],
)
def test_broken_documents_do_not_fit_the_schema(name: str) -> None:
    """An editor underlines what `check` would refuse."""
    document = yaml.safe_load((ROOT / "tests" / "corpus" / "broken_policies" / f"{name}.yaml").read_text())

    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, set_schema())


def test_the_reference_page_is_current() -> None:
    """docs/policy-reference.md is what `tollgate schema --reference` prints; write it anew when this fails."""
    assert REFERENCE.read_text() == reference()


@pytest.mark.parametrize("arguments", [[], ["gateway-budget-config"], ["--reference"]])
def test_the_command_prints_it(arguments: list[str]) -> None:
    """`tollgate schema` prints JSON, or the page, and exits 0."""
    command = [sys.executable, "-m", "ext_proc.cli", "schema", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("# Policy reference" if "--reference" in arguments else '{\n  "$schema"')
