"""Draws the transition tables of the two machines, from the tables that run.

`python -m ext_proc.exchange.tables docs/architecture.md` rewrites what stands between the markers in that page.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from enum import Enum
from pathlib import Path

from ext_proc.exchange import admission, settlement


def markdown(transitions: Mapping[Enum, Mapping[type, frozenset[Enum]]]) -> str:
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


def mermaid(transitions: Mapping[Enum, Mapping[type, frozenset[Enum]]]) -> str:
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
    for name, transitions in (("admission", admission.TRANSITIONS), ("settlement", settlement.TRANSITIONS)):
        drawn = f"<!-- {name} -->\n{markdown(transitions)}\n\n{mermaid(transitions)}\n<!-- /{name} -->"
        page = re.sub(f"<!-- {name} -->.*?<!-- /{name} -->", lambda _, text=drawn: text, page, flags=re.DOTALL)
    return page


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(redraw(path.read_text("utf-8")), "utf-8")
