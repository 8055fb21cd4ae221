"""More than one process or machine, by Ray: bulk generation over workers, and a Ray Serve application with sessions.

Needs the extra `causalrn[ray]`. Ray reports its usage to its makers unless told otherwise: here it does not, unless
whoever starts us has set RAY_USAGE_STATS_ENABLED. Import this before `ray` itself, which reads these when imported.
"""

import os

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
"""Who has set the variable, to whatever, has chosen."""
