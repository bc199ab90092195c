"""What the admin API is told about the process it runs in."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ext_proc.identity.administration import Administration
from ext_proc.ledger.interface import Code, Ledger
from ext_proc.policy.snapshot import Snapshot
from ext_proc.pricing.catalogue_file import Status
from ext_proc.routing.health import Health
from ext_proc.routing.virtual_models import VirtualModels

# Minted in 1970 with no randomness: a hold id that nobody has, but that every ledger understands.
_NOBODYS_HOLD = "0" * 28 + ".1"


@dataclass(frozen=True, slots=True)
class Targets:
    """Where the routing rules in force and the counts come from. `health` raises StoreError while Redis is silent."""

    virtual_models: Callable[[], VirtualModels]
    health: Callable[[], Awaitable[Health]]


@dataclass(frozen=True, slots=True)
class AdminContext:
    """The admin API's surroundings.

    `readiness` names the components: False makes the process not ready, a text is shown beside and does not. Redis is
    no component that may be False: its outage is answered by policy, and replicas that all leave at once answer nobody.
    `snapshot_info` describes the loaded policy set; `version` is its hash. `token` guards `/v1/*`; without one they
    answer only where `loopback` says that no other machine can ask. `policy` is the policy set as the whole stack
    follows it, worker by worker; `snapshot` the set in force in this process.
    """

    ledger: Ledger
    readiness: Callable[[], Mapping[str, bool | str]]
    metrics_dir: Path
    snapshot_info: Callable[[], Mapping[str, str]]
    token: str | None = None
    loopback: bool = False
    administration: Administration | None = None  # None: no keys are kept here
    policy: Callable[[], Mapping[str, object]] | None = None
    snapshot: Callable[[], Snapshot] | None = None
    catalogue: Callable[[], Status] | None = None  # the public prices in force, for metrics
    catalogue_info: Callable[[], Mapping[str, str]] | None = None  # the same for probes
    targets: Targets | None = None  # None: nothing is routed here


async def ledger_answers(ledger: Ledger) -> bool:
    """Whether the ledger's store answers now.

    The reading calls answer "nothing" when the store is silent; this tells nothing from silence. Renewing a hold that
    does not exist changes nothing and is answered by every ledger.
    """
    return await ledger.renew((_NOBODYS_HOLD,), 1) is not Code.UNAVAILABLE
