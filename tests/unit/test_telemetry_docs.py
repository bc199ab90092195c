"""The pages that name metrics, counts and behaviours are held against the code."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

from ext_proc.mock_provider.behavior import Behavior
from ext_proc.mock_provider.counts import Counts
from ext_proc.telemetry import labels, names

DOCS = Path(__file__).parents[2] / "docs"


def first_cells(page: str, heading: str) -> set[str]:
    """The code spans in the first column of the tables under one heading."""
    section = re.split(r"^#+ ", page.split(heading, 1)[1], maxsplit=1, flags=re.MULTILINE)[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    return {name for cell in rows for name in re.findall(r"`([^`]+)`", cell)}


def test_the_metrics_page_is_the_table_of_names() -> None:
    """docs/metrics.md has one row per metric, with its type, labels and meaning, and no other."""
    page = (DOCS / "metrics.md").read_text()
    rows = {line for line in page.splitlines() if re.match(r"\| `(llm_gateway|gen_ai|tollgate)_\w+` \|", line)}

    assert rows == {
        f"| `{metric.exposed}` | {metric.kind.value} | "
        f"{', '.join(f'`{label}`' for label in metric.labels) or '–'} | {metric.help} |"
        for metric in names.METRICS
    }


def test_every_metric_in_an_example_exists() -> None:
    """Queries and alarms on the page name metrics that are there."""
    page = (DOCS / "metrics.md").read_text()
    exposed = {metric.exposed for metric in names.METRICS}
    exposed |= {f"{metric.exposed}{suffix}" for metric in names.METRICS for suffix in ("_bucket", "_sum", "_count")}
    mentioned = set(re.findall(r"\btollgate_[a-z_]+\b|\bllm_gateway_(?!metadata_)[a-z_]+[a-z]\b", page))

    assert mentioned <= exposed


def test_the_bounds_on_the_page_are_those_of_the_code() -> None:
    """64 characters, 500 values and 5,000 combinations are what the code keeps."""
    page = (DOCS / "metrics.md").read_text()

    for bound in (labels.MAX_LABEL_CHARS, labels.MAX_LABEL_VALUES, labels.MAX_SERIES):
        assert f"{bound:,}" in page


def test_the_mock_page_names_every_count_and_behavior() -> None:
    """docs/mock-provider.md documents each key of both headers, and none that does not exist."""
    page = (DOCS / "mock-provider.md").read_text()

    assert first_cells(page, "`x-mock-usage`\n") == {one.name for one in fields(Counts)}
    assert first_cells(page, "`x-mock-behavior`\n") == {one.name for one in fields(Behavior)}
