"""Which realm an account lives in, and what of a request falls on which realm. Pure.

One script is atomic over the accounts of one realm. One realm for all is the default; on a Redis Cluster the accounts
of tenants may be spread over a fixed number of realms, so that the load spreads over the primaries. An account whose
bucket names a tenant lives in that tenant's realm, every other account in the shared one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from hashlib import blake2b

from ext_proc.ledger.amounts import amount
from ext_proc.ledger.interface import AccountSpec, HoldRequest, Measure, Part, Plan
from ext_proc.ledger.keys import DEFAULT_REALM, digest

TENANT_KEY = "tenant"
"""The bucket key that says whose realm an account lives in."""


@dataclass(frozen=True, slots=True)
class Realms:
    """How the ledger is laid out. `tenant_realms`: how many realms the tenants share; 0: one realm for everything."""

    tenant_realms: int = 0

    @property
    def names(self) -> tuple[str, ...]:
        """Every realm there is, the shared one first."""
        return (DEFAULT_REALM, *(f"t{number}" for number in range(self.tenant_realms)))

    def of_account(self, account: AccountSpec) -> str:
        """The realm of one account."""
        tenant = dict(account.bucket).get(TENANT_KEY) if self.tenant_realms else None
        return DEFAULT_REALM if tenant is None else self.of_tenant(tenant)

    def of_tenant(self, tenant: str) -> str:
        """The realm that a tenant's own accounts live in."""
        number = int.from_bytes(blake2b(tenant.encode(), digest_size=8).digest(), "big")
        return f"t{number % self.tenant_realms}"

    def of_plan(self, plan: Plan) -> tuple[str, ...]:
        """The realms that a plan's accounts live in, the home of its hold first: the tenant's realm, or the shared one
        where no account is a tenant's.
        """
        met = dict.fromkeys(self.of_account(posting.account) for posting in plan.postings)
        home = next((realm for realm in met if realm != DEFAULT_REALM), DEFAULT_REALM)
        return tuple(dict.fromkeys((home, *met)))

    def of_request(self, request: HoldRequest) -> tuple[str, ...]:
        """Every realm that any plan of a request falls on."""
        return tuple(dict.fromkeys(realm for plan in request.plans for realm in self.of_plan(plan))) or (DEFAULT_REALM,)

    def plan_in(self, plan: Plan, realm: str) -> Plan:
        """What a plan asks of one realm."""
        postings = tuple(posting for posting in plan.postings if self.of_account(posting.account) == realm)
        return replace(plan, postings=postings)


ONE_REALM = Realms()


def fingerprint(request: HoldRequest) -> str:
    """What a repeated call of the same id must match: accounts, amounts and output ranges; not caps or context."""
    hashed = blake2b(digest_size=8)
    for plan in request.plans:
        hashed.update(repr((plan.target, plan.output_min, plan.output_max)).encode())
        for p in plan.postings:
            said = (digest(p.account), p.deciding, p.fixed, p.per_output_milli, p.spent_below, p.spent_from)
            hashed.update(repr(said).encode())
    return hashed.hexdigest()


def part_of(
    request: HoldRequest, mark: str, plan_index: int, realms: Realms, *, realm: str, output: int | None = None
) -> HoldRequest:
    """What one realm is asked of one plan: with this output, or that it is refused (None). `mark` is the fingerprint
    of the request.
    """
    plan = request.plans[plan_index]
    home = realms.of_plan(plan)[0]
    part = Part(mark, plan_index, "" if realm == home else home, refused=output is None)
    asked = realms.plan_in(plan, realm)
    if output is not None:
        asked = replace(asked, output_min=output, output_max=output)
        costs = (amount(p, output) for p in plan.postings if p.account.measure is Measure.COST)
        part = replace(part, hold_nanodollars=max(costs, default=0))
    return replace(request, plans=(asked,), previous=None, part=part)
