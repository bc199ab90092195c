"""Tool calls of an answer: asked for with `tool_calls`, made of the tools that the request declares."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import orjson

from ext_proc.mock_provider.shape import Call

ARGUMENTS: Final[Mapping[str, object]] = {"place": "Zürich", "days": 3}
"""What every tool is called with: text beyond ASCII, and a number."""

_NAMELESS = "tool"


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call: a short id that differs from call to call, and the tool's name."""

    id: str
    name: str

    @property
    def arguments(self) -> str:
        """The arguments as JSON text."""
        return orjson.dumps(ARGUMENTS).decode()

    def argument_pieces(self) -> tuple[str, ...]:
        """The arguments as providers stream them: cut anywhere."""
        text = self.arguments
        return text[: len(text) // 2], text[len(text) // 2 :]


def tool_calls(call: Call, declared: Iterable[object]) -> list[ToolCall]:
    """As many calls as were asked for, of the declared tools in turn."""
    names = [name for name in declared if isinstance(name, str)] or [_NAMELESS]
    return [ToolCall(f"{call.id}{index:02x}", names[index % len(names)]) for index in range(call.behavior.tool_calls)]


def names_in(tools: object, *path: str) -> list[object]:
    """The name of every entry of a list of tools, at a path inside each."""
    found: list[object] = []
    for tool in tools if isinstance(tools, Sequence) and not isinstance(tools, str) else ():
        for key in path:
            tool = tool.get(key) if isinstance(tool, Mapping) else None  # noqa: PLW2901  (one step down)
        found.append(tool)
    return found
