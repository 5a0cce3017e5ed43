"""For every test: what Hypothesis may and may not judge, and that Ctrl-C reaches the programs."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
import structlog
from hypothesis import settings

from planetserve.logs import get_logger

# With its module loaded, logging is as in a program that calls no command.
get_logger()

# How long an example takes depends on what else the machine does; speed is judged in bench/.
settings.register_profile("planetserve", deadline=None)
settings.load_profile("planetserve")

# A shell gives what it starts in the background an ignored SIGINT, which programs inherit and
# keep to. One that is handled here is back at its default in the programs that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """A command that a test calls sets the process's logging up, for its own output."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)
