"""For every test: what Hypothesis may and may not judge, and that Ctrl-C reaches the programs."""

from __future__ import annotations

import signal

from hypothesis import settings

# How long an example takes depends on what else the machine does; speed is judged in bench/.
settings.register_profile("planetserve", deadline=None)
settings.load_profile("planetserve")

# A shell gives what it starts in the background an ignored SIGINT, which programs inherit and
# keep to. One that is handled here is back at its default in the programs that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
