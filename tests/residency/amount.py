"""How much is searched: what `make test` has time for; `make prove` says more, and elsewhere, by variables.

They are no settings of the gateway, whose `DOUANE_` variables no test sees.
"""

from __future__ import annotations

import os

CASES = int(os.environ.get("RESIDENCY_CASES", "3000"))
SEED = os.environ.get("RESIDENCY_SEED", "the permitted set")
