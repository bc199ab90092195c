"""Draws the transition tables of the two machines, from the tables that run.

`python -m ext_proc.exchange.tables docs/architecture.md` rewrites what stands between the markers in that page.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import TypeVar

from ext_proc.exchange import admission, settlement

StateT = TypeVar("StateT", bound=Enum)
EventT = TypeVar("EventT")
Table = Mapping[StateT, Mapping[type[EventT], frozenset[StateT]]]


def markdown(transitions: Table[StateT, EventT]) -> str:
    """One row a state, one column an event; `·` where the event is not allowed."""
    events = list(dict.fromkeys(event for row in transitions.values() for event in row))
    lines = [
        f"| state | {' | '.join(event.__name__ for event in events)} |",
        f"|---|{'---|' * len(events)}",
    ]
    for state, row in transitions.items():
        cells = (", ".join(sorted(to.name for to in row[event])) if event in row else "·" for event in events)
        lines.append(f"| {state.name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def mermaid(transitions: Table[StateT, EventT]) -> str:
    """The same as a state diagram, without the loops of final states."""
    lines = ["```mermaid", "stateDiagram-v2"]
    for state, row in transitions.items():
        for event, targets in row.items():
            lines += [
                f"    {state.name} --> {to.name}: {event.__name__}"
                for to in sorted(targets, key=lambda to: to.name)
                if to is not state
            ]
    return "\n".join([*lines, "```"])


def redraw(page: str) -> str:
    """The page with both machines drawn anew between their markers."""
    page = _between("admission", f"{markdown(admission.TRANSITIONS)}\n\n{mermaid(admission.TRANSITIONS)}", page)
    return _between("settlement", f"{markdown(settlement.TRANSITIONS)}\n\n{mermaid(settlement.TRANSITIONS)}", page)


def _between(marker: str, drawn: str, page: str) -> str:
    begin, end = f"<!-- {marker} -->", f"<!-- /{marker} -->"
    return re.sub(f"{begin}.*?{end}", lambda _: f"{begin}\n{drawn}\n{end}", page, flags=re.DOTALL)


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(redraw(path.read_text("utf-8")), "utf-8")
