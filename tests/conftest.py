"""For every test: what Hypothesis may and may not judge."""

from __future__ import annotations

from hypothesis import settings

# How long an example takes depends on what else the machine does; speed is judged in bench/.
settings.register_profile("planetserve", deadline=None)
settings.load_profile("planetserve")
