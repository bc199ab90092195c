"""The policy set as the supervisor follows it: each worker reloads by itself, this tells people and probes about it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

from ext_proc.identity.identities import jwt_of
from ext_proc.policy.errors import PolicySetError
from ext_proc.policy.snapshot import ProviderAccount, Snapshot
from ext_proc.policy.status_file import WorkerPolicy
from ext_proc.policy.watch import Watcher
from ext_proc.supervisor.errors import SupervisorError

_POLL_SECONDS = 1.0


class PolicyWatch:
    """Loads a policy set and looks at its directory every second. Raises SupervisorError where it does not load now."""

    def __init__(self, directory: Path) -> None:
        try:
            self._watcher = Watcher(directory)
        except PolicySetError as error:
            raise SupervisorError(f"the policy set in {directory} does not load:\n{error}") from None
        self._directory = directory
        self._looking = asyncio.Lock()
        self.on_change: Callable[[], Awaitable[None]] | None = None  # what brings Envoy where the set leads
        self._routes = _routes(self._watcher.snapshot.accounts)
        self._key_files = _key_files(self._watcher.snapshot)

    @property
    def snapshot(self) -> Snapshot:
        """The set in force."""
        return self._watcher.snapshot

    def info(self) -> Mapping[str, str]:
        """For probes: the version in force, and what is wrong with the files where they are not it."""
        status = self._watcher.status
        found = {"version": status.version, "loaded": str(status.loaded), "refused": str(status.refused)}
        if status.errors:
            found["errors"] = "\n".join(map(str, status.errors))
        return found

    def report(self, workers: Sequence[WorkerPolicy], *, running: int) -> dict[str, object]:
        """For operators: what is in force here and in each worker, and whether it is the same everywhere: `running`
        workers, all of which have told.
        """
        status = self._watcher.status
        return {
            "version": status.version,
            "healthy": status.healthy,
            "loaded": status.loaded,
            "refused": status.refused,
            "errors": [str(error) for error in status.errors],
            "converged": [worker.version for worker in workers] == [status.version] * running,
            "workers": [
                {
                    "worker": worker.worker,
                    "pid": worker.pid,
                    "version": worker.version,
                    "catalogue": worker.catalogue,
                    "healthy": not worker.errors,
                    "loaded": worker.loaded,
                    "refused": worker.refused,
                    "errors": list(worker.errors),
                }
                for worker in workers
            ],
        }

    async def follow(self, say: Callable[[str], None]) -> None:
        """Look again and again, and tell of every change."""
        while True:
            await asyncio.sleep(_POLL_SECONDS)
            await self.look(say)

    async def look(self, say: Callable[[str], None], *, force: bool = False) -> None:
        """Look once. Reading is done beside the event loop: the directory may be on a slow mount."""
        async with self._looking:  # a hang-up may ask while the clock does
            await self._look(say, force=force)

    async def _look(self, say: Callable[[str], None], *, force: bool) -> None:
        refused, key_files = self._watcher.status.refused, self._key_files
        changed = await asyncio.to_thread(self._watcher.poll, force=force)
        self._key_files = await asyncio.to_thread(_key_files, self.snapshot)
        if changed:
            say(f"the policy set changed: {self.snapshot.version} is in force")
            if self.on_change is not None:
                await self._tell(self.on_change, say)
                return
            routes = _routes(self.snapshot.accounts)
            if routes != self._routes:
                say("provider accounts or endpoints changed: Envoy learns of them at the next start")
        elif self._key_files != key_files and self.on_change is not None:
            say("the keys of a token issuer changed")
            await self._tell(self.on_change, say)
        elif self._watcher.status.refused > refused:
            errors = "\n".join(map(str, self._watcher.status.errors))
            say(f"the policy set in {self._directory} does not load, the last good one stays in force:\n{errors}")

    async def _tell(self, on_change: Callable[[], Awaitable[None]], say: Callable[[str], None]) -> None:
        try:
            await on_change()
        except SupervisorError as error:
            say(str(error))


def _key_files(snapshot: Snapshot) -> dict[str, int]:
    """The files with keys of token issuers → when each was modified, in nanoseconds; 0 where it is not there."""
    jwt = jwt_of(snapshot)
    files = [issuer.jwks_file for issuer in (jwt.issuers if jwt is not None else ()) if issuer.jwks_file is not None]
    return {file: _modified_ns(Path(file)) for file in files}


def _modified_ns(file: Path) -> int:
    try:
        return file.stat().st_mtime_ns
    except OSError:
        return 0


def _routes(accounts: Mapping[str, ProviderAccount]) -> dict[str, str]:
    """What of the accounts is in Envoy's configuration."""
    return {name: account.endpoint for name, account in accounts.items()}
