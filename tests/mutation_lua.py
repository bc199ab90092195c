"""Break each line of the ledger's Lua in turn and see whether a test notices.

    ./dev test --mutation [--fresh] [file.lua …]        all scripts without a name

A line is broken by leaving it out or, where the script then no longer compiles, by turning an operator or a number. The
quick tests run first and stop at the first failure, the stateful test for what survives them. Each broken script is
tried in a process of its own, forked from one that has everything loaded, so that most cost a second.

What is found is kept in `.mutation/`. A second run goes on where the first stopped: it takes what a test has noticed
as noticed until that script's text changes, and tries survivors again. Survivors that change nothing anybody could see
are listed below with the reason; any other makes the exit status 1.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))
os.environ["TOLLGATE_TEST_NO_SHRINK"] = "1"

import pytest  # noqa: E402 - the path comes first when run as a script

from ext_proc.ledger import scripts  # noqa: E402
from tests.conftest import RedisServer, running_redis  # noqa: E402

LUA = ROOT / "ext_proc/ledger/lua"
FOUND = ROOT / ".mutation/found.jsonl"
QUICK = (
    "tests/redis/test_ledger_tables.py",
    "tests/redis/test_ledger_effects.py",
    "tests/redis/test_ledger_upkeep.py",
    "tests/redis/test_ledger_trouble.py",
)
SLOW = ("tests/property/test_ledger_machine.py",)
PYTEST = ("-q", "-p", "no:cacheprovider", f"--rootdir={ROOT}", "-m", "not crash")
EQUIVALENT: dict[tuple[str, str], str] = {}
"""(script, line) whose absence or turn changes nothing that can be seen, and why."""
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


@dataclass(frozen=True, slots=True)
class Mutant:
    """One script with one line broken."""

    part: str
    number: int
    line: str
    broken: str
    source: str
    key: str

    def __str__(self) -> str:
        return f"{self.part}.lua:{self.number}: {self.line.strip()}  ->  {self.broken.strip() or '(left out)'}"


def ways_to_break(line: str) -> Iterator[str]:
    """The crudest first."""
    yield ""
    for old, new in TURNS:
        if old in line:
            yield line.replace(old, new, 1)
    number = re.search(r"\d+", line)
    if number:
        yield line[: number.start()] + str(int(number.group()) + 1) + line[number.end() :]


def mutants(server: RedisServer, path: Path) -> Iterator[Mutant]:
    """One for each line of a script that can be broken and still compiles: a script that does not is noticed anyway."""
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    for index, line in enumerate(lines):
        if STRUCTURE.match(line):
            continue
        for broken in ways_to_break(line):
            source = "\n".join([*lines[:index], broken, *lines[index + 1 :]])
            if compiles(server, path.stem, source):
                key = hashlib.sha256(f"{path.name}\n{index}\n{broken}\n{text}".encode()).hexdigest()[:16]
                yield Mutant(path.stem, index + 1, line, broken, source, key)
                break


def compiles(server: RedisServer, part: str, source: str) -> bool:
    """Whether every script that has this part still loads."""
    with pytest.MonkeyPatch.context() as patch:
        replace_part(patch, part, source)
        loaded = [script.source for script in scripts.load_scripts().values() if source in script.source]
    return all(not (server.ask("SCRIPT", "LOAD", script) or "-").startswith("-") for script in loaded)


def replace_part(patch: pytest.MonkeyPatch, part: str, source: str) -> None:
    """Until the patch is undone, scripts are put together with this text for that part."""
    read = scripts._read
    patch.setattr(scripts, "_read", lambda name: source if name == part else read(name))


def passes(mutant: Mutant | None, tests: tuple[str, ...]) -> bool:
    """Whether these tests all pass with it, in a process of their own. Its time is ample: a busy machine is no test."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        os.setsid()  # with the servers it starts it is ended as one
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        if mutant is not None:
            replace_part(pytest.MonkeyPatch(), mutant.part, mutant.source)
        os._exit(int(pytest.main([*PYTEST, "-x", "--timeout=900", *tests])))
    _, status = os.waitpid(child, 0)
    try:
        os.killpg(child, signal.SIGKILL)
    except ProcessLookupError:
        return status == 0
    return status == 0


def noticed_before() -> set[str]:
    """The keys of what a test has noticed already."""
    if not FOUND.exists():
        return set()
    return {json.loads(line)["key"] for line in FOUND.read_text(encoding="utf-8").splitlines()}


def main(arguments: list[str]) -> int:
    """Go through the scripts; whether an unexplained mutant survived decides the exit status."""
    if "--fresh" in arguments:
        FOUND.unlink(missing_ok=True)
    names = [argument for argument in arguments if argument != "--fresh"]
    unknown = [name for name in names if not (LUA / name).is_file()]
    if unknown:
        sys.stderr.write(
            f"no such script: {', '.join(unknown)}; there are {', '.join(p.name for p in LUA.iterdir())}\n"
        )
        return 2
    os.chdir(ROOT)
    FOUND.parent.mkdir(exist_ok=True)
    noticed = noticed_before()
    pytest.main([*PYTEST, "--collect-only", "-qq", *QUICK, *SLOW])  # so that the forked have it all loaded
    if not passes(None, QUICK):
        sys.stderr.write("the quick tests fail as the scripts are: nothing can be told of broken ones\n")
        return 2
    with running_redis("--save", "") as server:
        paths = sorted(path for path in LUA.iterdir() if not names or path.name in names)
        every = [mutant for path in paths for mutant in mutants(server, path)]
    survivors = left_by(QUICK, [mutant for mutant in every if mutant.key not in noticed])
    return report(len(every), left_by(SLOW, survivors))


def left_by(tests: tuple[str, ...], tried: list[Mutant]) -> list[Mutant]:
    """Those that these tests do not notice. What they notice is written down at once."""
    survivors = []
    for count, mutant in enumerate(tried, 1):
        survived = passes(mutant, tests)
        if survived:
            survivors.append(mutant)
        else:
            with FOUND.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"key": mutant.key, "mutant": str(mutant)}) + "\n")
        sys.stdout.write(f"{count}/{len(tried)} {'survived' if survived else 'noticed'} {mutant}\n")
    return survivors


def report(count: int, survivors: list[Mutant]) -> int:
    """Say how it went; 1 where a survivor is without a reason."""
    explained = {mutant: EQUIVALENT.get((f"{mutant.part}.lua", mutant.line.strip())) for mutant in survivors}
    for mutant, reason in explained.items():
        sys.stdout.write(f"SURVIVED {mutant}\n    {reason or 'no test notices'}\n")
    missed = sum(reason is None for reason in explained.values())
    noticed = count - len(survivors)
    sys.stdout.write(
        f"{count} lines broken: {noticed} noticed, {len(survivors) - missed} equivalent, {missed} missed\n"
    )
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
