"""What one worker process holds: settings, terms, ledger, metrics. Nothing of a single request lives here."""

from __future__ import annotations

import os
from dataclasses import dataclass

from ext_proc.exchange.calibration import Learned
from ext_proc.exchange.terms import Terms
from ext_proc.identity.directory import Directory
from ext_proc.ledger import ids
from ext_proc.ledger.realms_ledger import StoreLedger
from ext_proc.policy.watch import Watcher
from ext_proc.pricing.catalogue_file import CatalogueWatch
from ext_proc.server.batch_memory import BatchMemory
from ext_proc.server.content_log import ContentLog
from ext_proc.server.credentials import Credentials
from ext_proc.server.learning import Learning
from ext_proc.server.outage import Outage
from ext_proc.server.scorer import Scorers
from ext_proc.server.settings import WorkerSettings
from ext_proc.server.settler import Settler
from ext_proc.server.target_health import TargetHealth
from ext_proc.telemetry.metrics import Metrics

_HOLD_RANDOM_BYTES = 8
_REQUEST_RANDOM_BYTES = 12


@dataclass(slots=True)
class Worker:
    """Shared by the roles of one process. `terms` is swapped whole when a policy set is loaded."""

    settings: WorkerSettings
    terms: Terms
    ledger: StoreLedger
    settler: Settler
    outage: Outage
    metrics: Metrics
    credentials: Credentials
    watcher: Watcher
    directory: Directory
    targets: TargetHealth
    learning: Learning
    scorers: Scorers
    memory: BatchMemory
    content_log: ContentLog
    catalogue: CatalogueWatch | None = None  # None: the one that ships
    other_terms: tuple[Terms, ...] = ()  # about to come into force, or in force before

    def now_us(self) -> int:
        """Redis time, as far as this worker knows it."""
        return self.ledger.now_us()

    def learned(self, target: str) -> Learned:
        """What is known of a target, for an attempt whose charge has to be estimated."""
        return self.learning.calibration.of(target)

    def mint_hold_id(self) -> str:
        """A new hold id for a first attempt."""
        return ids.mint(self.now_us(), os.urandom(_HOLD_RANDOM_BYTES))

    def mint_request_id(self) -> str:
        """The public id of a request: it tells nothing about the hold id."""
        return f"req_{os.urandom(_REQUEST_RANDOM_BYTES).hex()}"

    def credential(self, account: str, terms: Terms | None = None) -> tuple[tuple[str, str], ...]:
        """The headers that authenticate us to this account's provider. `terms`: those the request began with."""
        return self.credentials.headers((terms or self.terms).accounts[account])

    def secrets(self, target: str, terms: Terms) -> tuple[str, ...]:
        """What authenticates us to a target's provider, as it must stand nowhere else."""
        account = terms.accounts.get(target.partition("/")[0])
        headers = () if account is None else self.credentials.headers(account)
        return tuple(word for _, value in headers for word in value.split())

    def terms_of(self, target: str) -> Terms:
        """The terms for an attempt at this target: those in force, or others that a request may have begun with."""
        every = (self.terms, *self.other_terms)
        return next((terms for terms in every if target in terms.virtual_models.targets), self.terms)
