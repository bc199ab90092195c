"""What the machines want done, as values: the drivers in `server` do it and feed the outcome back as events."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto

from ext_proc.exchange.chain import Chain, Limits
from ext_proc.exchange.content import LoggedRequest
from ext_proc.exchange.cutting import Cut
from ext_proc.exchange.saving import ScoreWanted
from ext_proc.exchange.ticket import Ticket
from ext_proc.ledger.interface import HoldRequest, Resolution
from ext_proc.policy.snapshot import OnStoreFailure
from ext_proc.refusal import Refusal


@dataclass(frozen=True, slots=True)
class AcknowledgeHead:
    """Answer the request headers: go on, and put the hold id into the metadata so that every later record matches."""

    hold_id: str


@dataclass(frozen=True, slots=True)
class AskScore:
    """Ask the scorer of a saving rule, within its deadline."""

    wanted: ScoreWanted


@dataclass(frozen=True, slots=True)
class AskHold:
    """Ask the ledger. `on_store_failure`: what the deciding rules want done when it does not answer."""

    request: HoldRequest
    on_store_failure: OnStoreFailure = OnStoreFailure.REFUSE


@dataclass(frozen=True, slots=True)
class GiveBack:
    """Release a hold that was, or may have been, granted for a request that was never forwarded."""

    resolution: Resolution


@dataclass(frozen=True, slots=True)
class Forward:
    """Answer the request body: send it to `account`, with these changes and this ticket.

    `body` None: as the client sent it. `answer` are the values of the response headers that Envoy adds itself. With a
    `chain`, Envoy sends it to `cluster`, and every attempt is rewritten by try: the body stays as the client sent it.
    """

    ticket: Ticket
    account: str
    path: str
    body: bytes | None
    remove_headers: tuple[str, ...]
    answer: dict[str, str]
    set_headers: tuple[tuple[str, str], ...] = ()
    limits: Limits = field(default_factory=Limits)
    batch: str | None = None  # of a batch: its own ticket, which takes the place of the other one
    chain: Chain | None = None
    cluster: str | None = None
    swapped_by: str = ""  # the id, as written, of the rule that sends it to a cheaper model
    logged: LoggedRequest | None = None  # what its content log gets


@dataclass(frozen=True, slots=True)
class PassUnmetered:
    """Forward without metering: policy allows this path."""

    account: str
    path: str
    remove_headers: tuple[str, ...]
    batch: str | None = None  # the ticket of a call that makes something known of a batch: its answer is read


@dataclass(frozen=True, slots=True)
class Refuse:
    """Answer the client now."""

    refusal: Refusal
    body: dict[str, object]
    headers: dict[str, str]


class Observation(Enum):
    """What admission noticed and wants counted."""

    __hash__ = object.__hash__  # members are singletons; Enum hashes their names, in Python

    IGNORED_HEADER = auto()  # an `x-tfy-*` header that means nothing
    AUDITED = auto()  # a rule in audit mode would have refused the request
    AUDITED_SWAP = auto()  # a rule in audit mode would have sent it to a cheaper model
    MISSING_KEY = auto()  # a rule's bucket key is missing: the request falls into `(none)`
    DOWNGRADED = auto()  # a rule sends the request to a cheaper model
    UNPRICED = auto()  # the target has no known price


@dataclass(frozen=True, slots=True)
class Observe:
    """Something to count, under one label: the header, the rule or the model."""

    what: Observation
    label: str


@dataclass(frozen=True, slots=True)
class Resolve:
    """Settle or release a hold, and count what it cost. `usage_missing`: a whole 2xx answer told no usage."""

    ticket: Ticket
    resolution: Resolution
    usage_missing: bool = False


@dataclass(frozen=True, slots=True)
class PassChunk:
    """Give the client this instead of the chunk it belongs to; None: the chunk as it is."""

    replacement: bytes | None


@dataclass(frozen=True, slots=True)
class Extend:
    """Ask the ledger whether a stream may run on to `output` tokens in all: those of `cut` may refuse."""

    hold_id: str
    output: int
    cost_milli: int  # what each token costs at most, in thousandths of a nano-dollar
    cut: Cut
    realms: tuple[str, ...] = ()  # where its hold stands


@dataclass(frozen=True, slots=True)
class EndStream:
    """End the client's answer with these events, and let go of the provider. `rules`: who wants it."""

    ending: bytes
    rules: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Recall:
    """Look up what is remembered of a file or a batch: account, kind and id name it."""

    key: tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Remember:
    """Remember a text of a file or a batch, before the client learns of its id."""

    key: tuple[str, str, str]
    text: str


AdmissionEffect = AcknowledgeHead | AskScore | AskHold | GiveBack | Forward | PassUnmetered | Refuse | Observe | Recall
SettlementEffect = Resolve | PassChunk | Extend | EndStream | Remember
