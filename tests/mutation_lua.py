"""Break each line of the ledger's Lua in turn and see whether a test notices.

    ./dev test --mutation [--fresh] [--quick] [--every-way] [file.lua …]        all scripts without a name

A line is broken by leaving it out or, where the script then no longer compiles, by turning an operator or a number;
with `--every-way` it is broken in each of these ways in turn. The quick tests run first; those that play trouble, and
the stateful ones, take what survives them, unless `--quick` leaves them out.

Tests are collected once, and pass once as the scripts are. Each broken script is then tried in a process forked from
there, with the same Redis, up to the first test that fails; those that noticed most in the same script are asked first.
So most cost less than a second.

What is found is kept in `.mutation/`. A second run goes on where the first stopped: it takes what a test has noticed
as noticed until that script's text changes, and tries survivors again. Survivors that change nothing anybody could see
are listed below with the reason; any other makes the exit status 1.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import signal
import sys
import time
from collections import Counter
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

OPTIONS = ("--fresh", "--quick", "--every-way")
LUA = ROOT / "ext_proc/ledger/lua"
FOUND = ROOT / ".mutation/found.jsonl"
QUICK = (
    "tests/redis/test_ledger_tables.py",
    "tests/redis/test_ledger_effects.py",
    "tests/redis/test_ledger_edges.py",
    "tests/redis/test_ledger_realm_parts.py",
)
WAITING = (
    "tests/redis/test_ledger_upkeep.py",
    "tests/redis/test_ledger_outage.py",
    "tests/redis/test_ledger_trouble.py",
)
"""Tests that may wait in vain for what a broken script never does."""

SLOW = (
    "tests/property/test_ledger_amounts.py",
    "tests/property/test_ledger_machine.py",
    "tests/property/test_ledger_realms.py",
    "tests/property/test_ledger_torn.py",
)
PYTEST = (
    "-q",
    *("-p", "no:cacheprovider", "--capture=no", "--assert=plain", "--tb=native"),  # nobody reads why
    *("-m", "not crash", "-k", "not memory"),  # what a test asks of the model alone no script can change
    f"--rootdir={ROOT}",
)

EQUIVALENT: dict[tuple[str, str, str], str] = {
    (
        "accounts.lua",
        "known.kept_crossed = known.crossed",
        "",
    ): "the figure that is there is written once more",
    (
        "hold.lua",
        "if posting.spent_from >= 0 and account_of(posting).spent < posting.spent_from then",
        "if posting.spent_from > 0 and account_of(posting).spent < posting.spent_from then",
    ): "no account has spent less than nothing, so that waiting for 0 is not waiting",
    (
        "amounts.lua",
        "if asked == 0 or asked <= room then",
        "if asked == 1 or asked <= room then",
    ): "what asks nothing at its largest output is bounded by that output, or by 0/0, which is no bound",
    (
        "resolution.lua",
        "return (tonumber(string.sub(id, 1, 12), 16) or 0) * 1000",
        "return (tonumber(string.sub(id, 2, 12), 16) or 0) * 1000",
    ): "the first digit of a mint time is 0 until the year 2527",
}
"""(script, line, what became of it) where nothing changes that can be seen, and why."""
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

    @property
    def change(self) -> tuple[str, str, str]:
        """As `EQUIVALENT` names it."""
        return f"{self.part}.lua", self.line.strip(), self.broken.strip()

    def __str__(self) -> str:
        return f"{self.part}.lua:{self.number}: {self.line.strip()}  ->  {self.broken.strip() or '(left out)'}"


def ways_to_break(line: str) -> Iterator[str]:
    """The crudest first. What a comment says is left alone."""
    code = line.partition(" --")[0]
    yield ""
    for old, new in TURNS:
        if old in code:
            yield code.replace(old, new, 1)
    number = re.search(r"\d+", code)
    if number:
        yield code[: number.start()] + str(int(number.group()) + 1) + code[number.end() :]


def mutants(server: RedisServer, path: Path, *, every_way: bool) -> Iterator[Mutant]:
    """Each line of a script broken in the first way that still compiles, or in every one: a script that does not is
    noticed anyway.
    """
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
                if not every_way:
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


class Trials:
    """A pytest plugin that runs the collected tests once as the scripts are, then against each broken script."""

    def __init__(self, tried: list[Mutant], *, confirm: bool) -> None:
        self.survivors: list[Mutant] = []
        self.failed = ""  # the test that fails without any fault, or why nothing was collected
        self._tried = tried
        self._confirm = confirm
        self._seconds: dict[str, float] = {}
        self._noticed = Counter((found["part"], found["by"]) for found in found_before())

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Instead of running each test once."""
        if session.testsfailed or not session.items:
            self.failed = "collecting the tests"
            return True
        for item, following in zip(session.items, [*session.items[1:], session.items[0]], strict=True):
            started = time.monotonic()
            session.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            self._seconds[item.nodeid] = time.monotonic() - started
            if session.testsfailed:
                self.failed = item.nodeid
                return True
        for count, mutant in enumerate(self._tried, 1):
            by = self._noticed_by(mutant, session)
            if by:
                self._noticed[mutant.part, by] += 1
                with FOUND.open("a", encoding="utf-8") as file:
                    found = {"key": mutant.key, "part": mutant.part, "mutant": str(mutant), "by": by}
                    file.write(json.dumps(found) + "\n")
            else:
                self.survivors.append(mutant)
            told = f"noticed by {by.rpartition('/')[2]}" if by else "survived"
            sys.stdout.write(f"{count}/{len(self._tried)} {told} {mutant}\n")
            sys.stdout.flush()
        return True

    def _noticed_by(self, mutant: Mutant, session: pytest.Session) -> str:
        """The test that notices, or nothing. It must pass with the script as it is, and fail again, so that it did not
        fail for another reason.
        """
        items = sorted(session.items, key=lambda item: (-self._noticed[mutant.part, item.nodeid], self._cost(item)))
        while items:
            by = first_to_fail(session, items, mutant)
            if not by or not self._confirm:
                return by
            again = [item for item in items if item.nodeid == by]
            if not first_to_fail(session, again, None) and first_to_fail(session, again, mutant):
                return by
            items = items[items.index(again[0]) + 1 :]
        return ""

    def _cost(self, item: pytest.Item) -> float:
        return self._seconds[item.nodeid]


def first_to_fail(session: pytest.Session, items: list[pytest.Item], mutant: Mutant | None) -> str:
    """Run these tests in a process forked from here, up to the first that fails, whose name is answered."""
    sys.stdout.flush()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.setsid()  # with the servers it starts it is ended as one
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        if mutant is not None:
            replace_part(pytest.MonkeyPatch(), mutant.part, mutant.source)
        for item in items:
            session.config.hook.pytest_runtest_protocol(item=item, nextitem=items[0])
            if session.testsfailed:
                os.write(writing, item.nodeid.encode())
                os._exit(1)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        told = pipe.read().decode()
    _, status = os.waitpid(child, 0)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    return told or ("" if status == 0 else items[0].nodeid)


def found_before() -> list[dict[str, str]]:
    """What a test has noticed in earlier runs, and which."""
    if not FOUND.exists():
        return []
    return [json.loads(line) for line in FOUND.read_text(encoding="utf-8").splitlines()]


def main(arguments: list[str]) -> int:
    """Go through the scripts; whether an unexplained mutant survived decides the exit status."""
    if "--fresh" in arguments:
        FOUND.unlink(missing_ok=True)
    names = [argument for argument in arguments if argument not in OPTIONS]
    unknown = [name for name in names if not (LUA / name).is_file()]
    if unknown:
        sys.stderr.write(
            f"no such script: {', '.join(unknown)}; there are {', '.join(p.name for p in LUA.iterdir())}\n"
        )
        return 2
    os.chdir(ROOT)
    FOUND.parent.mkdir(exist_ok=True)
    noticed = {found["key"] for found in found_before()}
    with running_redis("--save", "") as server:
        paths = sorted(path for path in LUA.iterdir() if not names or path.name in names)
        every = [mutant for path in paths for mutant in mutants(server, path, every_way="--every-way" in arguments)]
    survivors = [mutant for mutant in every if mutant.key not in noticed]
    stages = ((QUICK, 60, True), (WAITING, 60, True), (SLOW, 1_800, False))
    for tests, seconds, confirm in stages[:1] if "--quick" in arguments else stages:
        trials = Trials(survivors, confirm=confirm)
        if survivors:
            pytest.main([*PYTEST, f"--timeout={seconds}", *tests], plugins=[trials])
        if trials.failed:
            sys.stderr.write(f"fails with the scripts as they are, so that nothing can be told: {trials.failed}\n")
            return 2
        survivors = trials.survivors
    return report(len(every), survivors)


def report(count: int, survivors: list[Mutant]) -> int:
    """Say how it went; 1 where a survivor is without a reason."""
    explained = {mutant: EQUIVALENT.get(mutant.change) for mutant in survivors}
    for mutant, reason in explained.items():
        sys.stdout.write(f"SURVIVED {mutant}\n    {reason or 'no test notices'}\n")
    missed = sum(reason is None for reason in explained.values())
    noticed = count - len(survivors)
    sys.stdout.write(f"{count} faults: {noticed} noticed, {len(survivors) - missed} equivalent, {missed} missed\n")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
