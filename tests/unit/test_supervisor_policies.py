"""Which policy set is read, from a checkout and from a wheel."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from ext_proc.supervisor.errors import OptionError
from ext_proc.supervisor.policies import choose_policies, shipped_policies

ROOT = Path(__file__).parents[2]
LOAD_SHIPPED = """
from ext_proc.policy.loader import load
from ext_proc.supervisor.policies import shipped_policies
print(shipped_policies())
print(load(shipped_policies()).version)
"""


def test_the_option_then_the_current_directory_then_what_ships(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--policies wins; `policies/` of the current directory comes next; without either the shipped set is used."""
    monkeypatch.chdir(tmp_path)
    assert choose_policies(None) == shipped_policies()
    (tmp_path / "policies").mkdir()
    assert choose_policies(None) == tmp_path / "policies"
    assert choose_policies(str(ROOT / "policies")) == ROOT / "policies"
    with pytest.raises(OptionError, match="--policies none: there is no such directory"):
        choose_policies("none")


def test_a_wheel_brings_the_policy_set_and_the_scripts(tmp_path: Path) -> None:
    """What is built and installed elsewhere has all that is not Python: policies, Lua scripts, the type marker."""
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    installed = tmp_path / "installed"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)
    for pattern in ("policies/*.yaml", "ext_proc/ledger/lua/*.lua", "ext_proc/py.typed"):
        at_home = sorted(path.relative_to(ROOT) for path in ROOT.glob(pattern))
        shipped = Path("ext_proc/shipped") if pattern.startswith("policies") else Path()
        assert at_home
        assert [path for path in at_home if not (installed / shipped / path).is_file()] == []
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run(
        [sys.executable, "-P", "-c", LOAD_SHIPPED],
        env=environment,
        cwd=tmp_path,
        text=True,
        capture_output=True,
        check=True,
    )
    directory, version = done.stdout.splitlines()
    assert directory == str(installed / "ext_proc/shipped/policies")
    assert version
