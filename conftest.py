"""What every test folder shares: the fixture that runs the whole stack, and the size of property tests."""

from __future__ import annotations

import os

from hypothesis import settings

pytest_plugins = ["tests.stack_fixture"]

# The nightly run sets the scale to 20. Tests that choose their own number of examples multiply it by the same.
SCALE = int(os.environ.get("TOLLGATE_TEST_SCALE", "1"))

# No deadline: on two shared cores, how long an example takes says nothing.
settings.register_profile("tollgate", deadline=None, max_examples=100 * SCALE)
settings.load_profile("tollgate")
