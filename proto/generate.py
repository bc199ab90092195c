# ruff: noqa: INP001  # proto/ is no package: it holds sources for another compiler
"""Compile the wire messages: `python proto/generate.py [--out DIRECTORY]`.

The sources stand in a tree that mirrors the package (`proto/ext_proc/wire/*.proto`), so that the generated modules
import each other as `ext_proc.wire.…` while the messages keep Envoy's own package names, which gRPC method names are
made of. Needs grpcio-tools, which only developers install: what it generates is checked in.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from grpc_tools import __file__ as grpc_tools_file  # type: ignore[import-untyped]  # ships no types
from grpc_tools import protoc

PROTO_ROOT = Path(__file__).parent
REPOSITORY = PROTO_ROOT.parent


def generate(out: Path) -> None:
    """Write a module and a type stub for every source below `out`/ext_proc/wire. Raises RuntimeError on bad sources."""
    sources = sorted(str(path.relative_to(PROTO_ROOT)) for path in PROTO_ROOT.rglob("*.proto"))
    well_known_types = Path(grpc_tools_file).parent / "_proto"
    arguments = [
        "protoc",
        f"--proto_path={PROTO_ROOT}",
        f"--proto_path={well_known_types}",
        f"--python_out={out}",
        f"--pyi_out={out}",
        *sources,
    ]
    if protoc.main(arguments) != 0:
        raise RuntimeError("protoc refused the sources; it says why above")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Compile proto/ into ext_proc/wire/.")
    parser.add_argument("--out", type=Path, default=REPOSITORY, help="the root to write below (default: the checkout)")
    generate(parser.parse_args().out)


if __name__ == "__main__":
    main()
