"""Hot reload: what is on disk comes into force when it is right, and changes nothing when it is not."""

from __future__ import annotations

import itertools
import os
import shutil
from pathlib import Path

import pytest

from ext_proc.policy.errors import PolicySetError
from ext_proc.policy.watch import Watcher

GOOD = "name: s\ntype: gateway-settings\ndefault_output_tokens: {}\n"


TIMES_NS = itertools.count(1_000_000_000_000_000_000, 1_000_000_000)


def write(path: Path, text: str) -> None:
    """Write a file as an editor does, with a time that differs from every time before."""
    path.write_text(text)
    time_ns = next(TIMES_NS)
    os.utime(path, ns=(time_ns, time_ns))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A policy directory with one good file."""
    write(tmp_path / "a.yaml", GOOD.format(1))
    return tmp_path


def test_an_edited_file_comes_into_force(directory: Path) -> None:
    """The next poll after an edit has the new snapshot; one without an edit does nothing."""
    watcher = Watcher(directory)
    first = watcher.snapshot
    assert not watcher.poll()

    write(directory / "a.yaml", GOOD.format(2))

    assert watcher.poll()
    assert watcher.snapshot.settings.default_output_tokens == 2
    assert watcher.status.version == watcher.snapshot.version != first.version
    assert (watcher.status.loaded, watcher.status.healthy) == (2, True)
    assert first.settings.default_output_tokens == 1


def test_a_new_and_a_removed_file_come_into_force(directory: Path) -> None:
    """The set is the directory: files that come and go count."""
    watcher = Watcher(directory)

    write(directory / "b.yaml", "name: r\ntype: gateway-tagging-config\nheader: x-b\n")
    assert watcher.poll()
    assert watcher.snapshot.settings.metadata_header == "x-b"

    (directory / "b.yaml").unlink()
    assert watcher.poll()
    assert watcher.snapshot.settings.metadata_header == "x-tfy-metadata"


def test_a_broken_set_keeps_the_last_good_one_and_says_why(directory: Path) -> None:
    """A config that does not load changes nothing but the status, however often it is looked at."""
    watcher = Watcher(directory)
    good = watcher.snapshot

    write(directory / "a.yaml", GOOD.format("many"))

    assert not watcher.poll()
    assert not watcher.poll(force=True)
    assert watcher.snapshot is good
    assert watcher.status.version == good.version
    assert (watcher.status.refused, watcher.status.healthy) == (1, False)
    assert [error.field for error in watcher.status.errors] == ["default_output_tokens"]


def test_a_set_that_is_mended_comes_into_force(directory: Path) -> None:
    """After the mending poll nothing of the error is left but its count."""
    watcher = Watcher(directory)
    write(directory / "a.yaml", "broken: [")
    watcher.poll()

    write(directory / "a.yaml", GOOD.format(3))

    assert watcher.poll()
    assert watcher.status.errors == ()
    assert (watcher.status.loaded, watcher.status.refused) == (2, 1)


def test_an_edit_that_is_taken_back_is_healthy_again(directory: Path) -> None:
    """The files that are in force need no new snapshot: requests keep the one they have."""
    watcher = Watcher(directory)
    good = watcher.snapshot
    write(directory / "a.yaml", "broken: [")
    watcher.poll()

    write(directory / "a.yaml", GOOD.format(1))

    assert not watcher.poll()
    assert watcher.snapshot is good
    assert watcher.status.healthy


def test_a_directory_that_vanishes_and_returns(tmp_path: Path) -> None:
    """While the directory is away the last good set stays; when it is back the status is healthy again."""
    policies = tmp_path / "policies"
    policies.mkdir()
    write(policies / "a.yaml", GOOD.format(1))
    watcher = Watcher(policies)
    away = policies.rename(tmp_path / "away")

    assert not watcher.poll()
    assert not watcher.status.healthy

    away.rename(policies)

    assert not watcher.poll()
    assert watcher.status.healthy


def test_a_configmap_is_swapped_as_a_whole(tmp_path: Path) -> None:
    """A mounted ConfigMap changes by one symlink: no poll ever sees a file of each generation."""
    for number in (1, 2):
        generation = tmp_path / f"..{number}"
        generation.mkdir()
        write(generation / "a.yaml", GOOD.format(number))
        write(generation / "b.yaml", f"name: t\ntype: gateway-tagging-config\nheader: x-{number}\n")
    (tmp_path / "..data").symlink_to("..1")
    for name in ("a.yaml", "b.yaml"):
        (tmp_path / name).symlink_to(f"..data/{name}")
    watcher = Watcher(tmp_path)
    assert (watcher.snapshot.settings.default_output_tokens, watcher.snapshot.settings.metadata_header) == (1, "x-1")

    (tmp_path / "..data_tmp").symlink_to("..2")
    (tmp_path / "..data_tmp").rename(tmp_path / "..data")
    shutil.rmtree(tmp_path / "..1")

    assert watcher.poll()
    assert (watcher.snapshot.settings.default_output_tokens, watcher.snapshot.settings.metadata_header) == (2, "x-2")


def test_a_swap_while_a_set_is_read_does_not_mix_generations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The symlink is followed once per reading: what is read after a swap still comes from before it."""
    for number in (1, 2):
        generation = tmp_path / f"..{number}"
        generation.mkdir()
        write(generation / "a.yaml", GOOD.format(number))
        write(generation / "b.yaml", f"name: t\ntype: gateway-tagging-config\nheader: x-{number}\n")
    (tmp_path / "..data").symlink_to("..1")
    for name in ("a.yaml", "b.yaml"):
        (tmp_path / name).symlink_to(f"..data/{name}")
    read_bytes = Path.read_bytes

    def read_and_swap(path: Path) -> bytes:
        content = read_bytes(path)
        (tmp_path / "..data_tmp").symlink_to("..2")
        (tmp_path / "..data_tmp").rename(tmp_path / "..data")
        return content

    monkeypatch.setattr(Path, "read_bytes", read_and_swap)

    watcher = Watcher(tmp_path)

    assert (watcher.snapshot.settings.default_output_tokens, watcher.snapshot.settings.metadata_header) == (1, "x-1")
    monkeypatch.undo()
    assert watcher.poll()
    assert (watcher.snapshot.settings.default_output_tokens, watcher.snapshot.settings.metadata_header) == (2, "x-2")


def test_a_file_that_keeps_its_time_and_size_is_read_on_demand(directory: Path) -> None:
    """SIGHUP looks at the content, for file systems and tools that hide an edit."""
    watcher = Watcher(directory)
    path = directory / "a.yaml"
    before = path.stat()
    with path.open("r+") as file:
        file.write(GOOD.format(7))
    os.utime(path, ns=(before.st_mtime_ns, before.st_mtime_ns))
    assert not watcher.poll()

    assert watcher.poll(force=True)
    assert watcher.snapshot.settings.default_output_tokens == 7


def test_there_is_no_watcher_without_a_first_good_set(tmp_path: Path) -> None:
    """A sidecar that never had a policy must not start as if it had one."""
    write(tmp_path / "a.yaml", "broken: [")

    with pytest.raises(PolicySetError):
        Watcher(tmp_path)


def test_the_ledger_is_not_laid_out_anew_under_requests(directory: Path) -> None:
    """A set that would move accounts to other realms is refused with a cure, and the last good one stays."""
    watcher = Watcher(directory)

    write(directory / "a.yaml", GOOD.format(2) + "ledger: {realm_by: tenant, realms: 4}\n")

    assert not watcher.poll()
    assert watcher.snapshot.settings.default_output_tokens == 1
    (error,) = watcher.status.errors
    assert error.field == "ledger"
    assert "stop the whole gateway" in error.cure
    assert Watcher(directory).snapshot.settings.realms.tenant_realms == 4
