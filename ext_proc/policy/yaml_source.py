"""A directory of YAML files → trees of nodes that know where they stand.

Scalars stay text: what they mean is decided by the field they are written in (`schema`), so that `limit_to: 0.1` is
exactly a tenth, and a tag value `no` or `0123` is the text that a client sends. Nothing is constructed from YAML but
these three node types, so no tag can run code. Trees are built from parser events without recursion; depth, size and
the expansion of aliases are bounded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from ext_proc.policy.errors import PolicyError

MAX_FILES = 1_000
MAX_FILE_BYTES = 16 << 20
MAX_NODES = 2_000_000  # per file, aliases counted as often as they are used
MAX_DEPTH = 32

CONFIGMAP_DATA = "..data"  # the symlink a mounted ConfigMap is swapped by
_CORE_TAG = "tag:yaml.org,2002:"
_LOADER: type[yaml.SafeLoader | yaml.CSafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(slots=True)
class TextNode:
    """A leaf. `plain` is False where it was quoted or a block: then it is text and nothing else."""

    text: str
    plain: bool
    line: int
    size = 1
    depth = 1


@dataclass(slots=True)
class ListNode:
    """A list."""

    line: int
    items: list[Node] = field(default_factory=list)
    size: int = 1
    depth: int = 1


@dataclass(slots=True)
class MapNode:
    """A mapping with text keys, in file order, without duplicates."""

    line: int
    entries: list[tuple[TextNode, Node]] = field(default_factory=list)
    size: int = 1
    depth: int = 1


Node = TextNode | ListNode | MapNode


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file as read: its name (for messages) and bytes."""

    name: str
    content: bytes


@dataclass(frozen=True, slots=True)
class SourceDocument:
    """One YAML document of a file."""

    file: str
    root: MapNode


def read_directory(directory: Path) -> tuple[SourceFile, ...]:
    """All policy files of a directory in name order, from one generation of a mounted ConfigMap.

    Raises OSError where the directory cannot be read, and ValueError past the bounds.
    """
    # The mount's file symlinks all lead through `..data`, which is swapped in one step: resolving it once keeps a set
    # from being read half old, half new.
    generation = directory / CONFIGMAP_DATA
    root = generation.resolve() if generation.exists() else directory
    paths = sorted(p for p in root.iterdir() if is_policy_file(p))
    if len(paths) > MAX_FILES:
        raise ValueError(f"{len(paths)} files, at most {MAX_FILES} are read")
    return tuple(SourceFile(path.name, path.read_bytes()) for path in paths)


def is_policy_file(path: Path) -> bool:
    """Whether the name is one the loader reads: `*.yaml` or `*.yml`, not hidden."""
    return path.suffix in {".yaml", ".yml"} and not path.name.startswith(".") and path.is_file()


def content_hash(files: Sequence[SourceFile]) -> str:
    """Sixteen hex digits that change when any file of the set does."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{len(file.name)}:{file.name}:{len(file.content)}:".encode())
        digest.update(file.content)
    return digest.hexdigest()[:16]


def parse_file(file: SourceFile) -> tuple[tuple[SourceDocument, ...], tuple[PolicyError, ...]]:
    """The documents of a file, or the one error that kept it from being read."""
    if len(file.content) > MAX_FILE_BYTES:
        size = len(file.content)
        return (), (_file_error(file, 1, f"is {size} bytes", f"split it into files of at most {MAX_FILE_BYTES}"),)
    try:
        text = file.content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = file.content.count(b"\n", 0, error.start) + 1
        return (), (_file_error(file, line, "is not UTF-8", "save it as UTF-8"),)
    try:
        return tuple(_documents(file.name, text)), ()
    except _Refused as refused:
        return (), (PolicyError(file.name, refused.line, refused.field, refused.problem, refused.cure),)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = " ".join(part for part in (error.context, error.problem) if part)
        line = mark.line + 1 if mark else 1
        return (), (_file_error(file, line, f"is not YAML: {problem}", "check indentation, quotes and colons"),)
    except yaml.YAMLError:
        # The reader's own error: a character YAML does not allow at all.
        return (), (_file_error(file, 1, "holds a character that YAML does not allow", "remove control characters"),)


class _Refused(Exception):  # noqa: N818 - a control-flow carrier inside this module, never seen outside
    def __init__(self, line: int, field_path: str, problem: str, cure: str) -> None:
        super().__init__(problem)
        self.line = line
        self.field = field_path
        self.problem = problem
        self.cure = cure


def _file_error(file: SourceFile, line: int, problem: str, cure: str) -> PolicyError:
    return PolicyError(file.name, line, "(file)", problem, cure)


def _documents(name: str, text: str) -> Iterator[SourceDocument]:
    builder: _Builder | None = None
    for event in yaml.parse(text, Loader=_LOADER):
        if isinstance(event, yaml.DocumentStartEvent):
            builder = _Builder()
        elif isinstance(event, yaml.DocumentEndEvent):
            assert builder is not None, "a document ends after it started"
            root = builder.root
            if isinstance(root, MapNode):
                yield SourceDocument(name, root)
            elif not (isinstance(root, TextNode) and root.plain and root.text == ""):
                assert root is not None, "every document has a root node"
                raise _Refused(root.line, "(document)", "is not a mapping", "start it with `name:` and `type:`")
        elif builder is not None:
            builder.add(event)


class _Builder:
    """Turns the events of one document into nodes, with an explicit stack."""

    def __init__(self) -> None:
        self.root: Node | None = None
        self._open: list[ListNode | MapNode] = []
        self._keys: list[TextNode | None] = []  # per open mapping: the key that waits for its value
        self._anchors: dict[str, Node] = {}
        self._unfinished: set[str] = set()
        self._anchor_of: list[str | None] = []

    def add(self, event: yaml.Event) -> None:
        if isinstance(event, yaml.ScalarEvent):
            line = _line(event)
            self._refuse_tag(event.tag, line)
            scalar = TextNode(event.value, event.tag is None and event.style in {None, ""}, line)
            if event.anchor is not None:
                self._anchors[event.anchor] = scalar
            self._place(scalar)
        elif isinstance(event, yaml.AliasEvent):
            self._alias(event)
        elif isinstance(event, yaml.SequenceStartEvent | yaml.MappingStartEvent):
            self._enter(event)
        elif isinstance(event, yaml.SequenceEndEvent | yaml.MappingEndEvent):
            self._leave()

    def _refuse_tag(self, tag: str | None, line: int) -> None:
        if tag is not None and tag not in {"!", f"{_CORE_TAG}str"}:
            short = tag.replace(_CORE_TAG, "!!")
            raise _Refused(line, "(file)", f"carries the YAML tag {short}", "remove it: fields decide their own types")

    def _alias(self, event: yaml.AliasEvent) -> None:
        name = str(event.anchor)
        if name in self._unfinished:
            raise _Refused(_line(event), "(file)", f"the alias *{name} contains itself", "write the value out")
        if name not in self._anchors:
            raise _Refused(_line(event), "(file)", f"the alias *{name} has no anchor", f"define &{name} before it")
        self._place(self._anchors[name])

    def _enter(self, event: yaml.SequenceStartEvent | yaml.MappingStartEvent) -> None:
        line = _line(event)
        tag = event.tag
        if tag is not None and tag not in {"!", f"{_CORE_TAG}map", f"{_CORE_TAG}seq"}:
            self._refuse_tag(tag, line)
        if len(self._open) >= MAX_DEPTH:
            raise _Refused(line, "(file)", f"nests deeper than {MAX_DEPTH} levels", "no document needs that")
        node: ListNode | MapNode = ListNode(line) if isinstance(event, yaml.SequenceStartEvent) else MapNode(line)
        if event.anchor is not None:
            self._anchors[event.anchor] = node
            self._unfinished.add(event.anchor)
        self._open.append(node)
        self._keys.append(None)
        self._anchor_of.append(event.anchor)

    def _leave(self) -> None:
        node = self._open.pop()
        self._keys.pop()
        anchor = self._anchor_of.pop()
        if anchor is not None:
            self._unfinished.discard(anchor)
        if isinstance(node, MapNode):
            node.entries = _merged(node)
        self._place(node)

    def _place(self, node: Node) -> None:
        if not self._open:
            self.root = node
            return
        parent = self._open[-1]
        parent.size += node.size
        parent.depth = max(parent.depth, node.depth + 1)
        if parent.size > MAX_NODES:
            raise _Refused(parent.line, "(file)", f"expands to more than {MAX_NODES} values", "use fewer aliases")
        if parent.depth > MAX_DEPTH:
            raise _Refused(parent.line, "(file)", f"nests deeper than {MAX_DEPTH} levels", "no document needs that")
        if isinstance(parent, ListNode):
            parent.items.append(node)
            return
        key = self._keys[-1]
        if key is not None:
            parent.entries.append((key, node))
            self._keys[-1] = None
        elif isinstance(node, TextNode):
            self._keys[-1] = node
        else:
            raise _Refused(node.line, "(file)", "a mapping key is a list or mapping", "write the key as text")


def _merged(mapping: MapNode) -> list[tuple[TextNode, Node]]:
    """The entries with merge keys (`<<: *anchor`) applied; a key written twice is refused, never overwritten."""
    own: dict[str, int] = {}
    merges: list[MapNode] = []
    entries: list[tuple[TextNode, Node]] = []
    for key, value in mapping.entries:
        if key.text == "<<" and key.plain:
            parts = value.items if isinstance(value, ListNode) else [value]
            for part in parts:
                if not isinstance(part, MapNode):
                    raise _Refused(key.line, "(file)", "<< merges something that is no mapping", "merge a mapping")
                merges.append(part)
            continue
        if key.text in own:
            first = own[key.text]
            raise _Refused(key.line, "(file)", f"the key {key.text!r} stands twice (first on line {first})", "keep one")
        own[key.text] = key.line
        entries.append((key, value))
    for part in merges:
        for key, value in part.entries:
            if key.text not in own:
                own[key.text] = key.line
                entries.append((key, value))
    return entries


def _line(event: yaml.Event) -> int:
    mark = event.start_mark
    assert mark is not None, "parser events carry marks"
    return int(mark.line) + 1
