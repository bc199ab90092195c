"""The architecture page shows the tables that run."""

from __future__ import annotations

from pathlib import Path

from ext_proc.exchange.tables import redraw

PAGE = Path(__file__).parents[2] / "docs" / "architecture.md"


def test_the_page_is_drawn_from_the_running_tables() -> None:
    """`python -m ext_proc.exchange.tables docs/architecture.md` would change nothing."""
    page = PAGE.read_text("utf-8")

    assert "| AWAIT_HEAD |" in page
    assert redraw(page) == page
