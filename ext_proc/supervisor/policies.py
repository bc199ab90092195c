"""Which policy set a command reads when --policies does not say."""

from __future__ import annotations

from pathlib import Path

from ext_proc.supervisor.errors import OptionError

_IN_PACKAGE = Path(__file__).parent.parent / "shipped" / "policies"  # put there when the wheel is built
_IN_CHECKOUT = Path(__file__).parent.parent.parent / "policies"


def shipped_policies() -> Path:
    """The policy set that ships: inside the installed package, else in the checkout the package is run from."""
    return _IN_PACKAGE if _IN_PACKAGE.is_dir() else _IN_CHECKOUT


def choose_policies(option: str | None) -> Path:
    """--policies, else `policies/` of the current directory, else the set that ships. Raises OptionError."""
    if option is not None:
        chosen = Path(option).absolute()
        if not chosen.is_dir():
            raise OptionError(f"--policies {option}: there is no such directory")
        return chosen
    local = Path("policies").absolute()
    return local if local.is_dir() else shipped_policies()
