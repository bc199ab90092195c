"""What every test folder shares: the fixture that runs the whole stack, and the size of property tests."""

from __future__ import annotations

from hypothesis import settings

pytest_plugins = ["tests.stack_fixture"]

settings.register_profile("default", deadline=None)  # two shared cores: how long an example takes says nothing
settings.register_profile("nightly", deadline=None, max_examples=2000)
settings.load_profile("default")
