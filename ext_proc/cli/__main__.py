"""`python -m ext_proc.cli` is the tollgate command."""

from __future__ import annotations

import sys

from ext_proc.cli import main

sys.exit(main())
