"""Every error of the supervisor: one message that names the place and the cure."""

from __future__ import annotations


class SupervisorError(Exception):
    """The stack cannot be started or kept up. The text is for the person at the terminal."""

    exit_status = 1


class OptionError(SupervisorError):
    """An option of the command line that cannot be meant."""

    exit_status = 2


class AddressInUseError(SupervisorError):
    """Another process has the address that was asked for."""


class MissingBinaryError(SupervisorError):
    """A program the stack needs is neither on PATH nor in the Python environment."""


class StateDirError(SupervisorError):
    """The state directory is in use by another stack, or cannot be used."""


class ServiceFailedError(SupervisorError):
    """A child process ended, or did not become ready, while the stack was being started."""
