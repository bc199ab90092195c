"""Break each line of the ledger's Lua in turn and see whether a test notices.

    python tests/mutation_lua.py [file.lua …]        all scripts without arguments; takes most of an hour

A line is broken by leaving it out or, where the script then no longer compiles, by turning an operator or a number. The
quick tests run first, the stateful test for what survives them. Survivors are printed, and the exit status is 1.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from tests.conftest import RedisServer, running_redis  # noqa: E402 - the path comes first when run as a script

LUA = Path("ext_proc/ledger/lua")
QUICK = [
    "tests/redis/test_ledger_upkeep.py",
    "tests/redis/test_ledger_tables.py",
    "tests/redis/test_ledger_effects.py",
    "tests/redis/test_ledger_trouble.py",
]
SLOW = ["tests/property/test_ledger_machine.py"]
STRUCTURE = re.compile(r"^\s*(end[),]*|else|\}|\)|\),|\{|return|--.*)?$")
TURNS = (
    (" == ", " ~= "),
    (" ~= ", " == "),
    (" <= ", " < "),
    (" >= ", " > "),
    (" < ", " <= "),
    (" > ", " >= "),
    (" + ", " - "),
    (" - ", " + "),
    (" * ", " / "),
    (" and ", " or "),
    (" or ", " and "),
    ("not ", ""),
    ("math.min", "math.max"),
    ("math.max", "math.min"),
    ("return false", "return true"),
    ("return 0", "return 1"),
)


def mutants(line: str) -> Iterator[str]:
    """Ways to break a line, the crudest first."""
    yield ""
    for old, new in TURNS:
        if old in line:
            yield line.replace(old, new, 1)
    number = re.search(r"\d+", line)
    if number:
        yield line[: number.start()] + str(int(number.group()) + 1) + line[number.end() :]


def compiles(server: RedisServer, tree: Path) -> bool:
    """Whether every script still loads: a broken one would be noticed by anybody."""
    program = (
        "from ext_proc.ledger.scripts import load_scripts\n"
        "import json; print(json.dumps([s.source for s in load_scripts().values()]))"
    )
    listed = subprocess.run([sys.executable, "-c", program], cwd=tree, capture_output=True, check=True, text=True)
    return all(
        not (server.ask("SCRIPT", "LOAD", source) or "-").startswith("-") for source in json.loads(listed.stdout)
    )


def survives(tree: Path) -> bool:
    """Whether every test still passes with the scripts of this tree."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(tree),
        "PYTHONDONTWRITEBYTECODE": "1",
        "TOLLGATE_TEST_NO_SHRINK": "1",
    }
    for tests in (QUICK, SLOW):
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--timeout=60", *tests]
        if subprocess.run(command, cwd=tree, env=environment, capture_output=True, check=False).returncode:
            return False
    return True


def main(names: list[str]) -> int:
    """Go through the files; the number of survivors decides the exit status."""
    survivors: list[str] = []
    tried = 0
    with tempfile.TemporaryDirectory(prefix="tg-mutation-") as directory, running_redis("--save", "") as server:
        tree = Path(directory)
        shutil.copytree(ROOT / "ext_proc", tree / "ext_proc")
        shutil.copytree(ROOT / "tests", tree / "tests")
        shutil.copy(ROOT / "pyproject.toml", tree)
        for path in sorted(path for path in (tree / LUA).iterdir() if not names or path.name in names):
            lines = path.read_text().splitlines()
            for number, line in enumerate(lines):
                if STRUCTURE.match(line):
                    continue
                for mutant in mutants(line):
                    path.write_text("\n".join([*lines[:number], mutant, *lines[number + 1 :]]))
                    if not compiles(server, tree):
                        continue
                    tried += 1
                    if survives(tree):
                        survivors.append(
                            f"{path.name}:{number + 1}: {line.strip()}  ->  {mutant.strip() or '(left out)'}"
                        )
                        sys.stdout.write(f"SURVIVED {survivors[-1]}\n")
                        sys.stdout.flush()
                    break
            path.write_text("\n".join(lines) + "\n")
    sys.stdout.write(f"{tried} lines broken, {len(survivors)} survived\n")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
